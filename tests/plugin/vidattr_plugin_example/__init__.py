"""An example of a package that extends vidattr_bench."""
