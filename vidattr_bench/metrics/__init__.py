"""Metrics, one file a family: every public class is a metric."""
