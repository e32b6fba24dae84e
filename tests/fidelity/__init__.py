"""Every family of checkpoint on every architecture and head, against the code that trained it: `make fidelity`."""
