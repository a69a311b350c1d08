"""The model zoo, one file an architecture: every public class is a model."""
