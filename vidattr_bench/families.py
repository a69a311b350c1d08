"""The families that methods belong to, in the order in which tables show them; controls come last."""

METHOD_FAMILIES = (
    *("gradient", "CAM", "reversed network", "relevance propagation", "perturbation"),
    *("other", "control"),
)
