"""The stages that DVC runs and the Prefect flows that run DVC."""
