"""Serving: the registered MLflow model, and the scheduler that shares it between requests."""
