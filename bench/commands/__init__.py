"""One module for each command: which contenders meet on which cases."""
