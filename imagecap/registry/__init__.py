"""The registry: tracked runs, registered versions, promotion, lineage and reproduction."""
