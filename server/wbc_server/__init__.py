"""What runs at the coordinator: aggregation, the gate, the journal, the report."""
