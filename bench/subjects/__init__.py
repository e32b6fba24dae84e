"""softmux itself as a contender, by its public interface alone."""
