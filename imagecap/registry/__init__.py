"""The registry: tracked runs, registered versions, which of them is served, and how each came about."""
