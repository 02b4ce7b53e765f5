from training.dataset.splits import *  # noqa: F403  (temporary: the helper in flight imports this path)
