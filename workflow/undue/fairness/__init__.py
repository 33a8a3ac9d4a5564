"""Fairness by reweighing training data, and how a model trainer can steer it (Yadav et al. 2024, §5)."""
