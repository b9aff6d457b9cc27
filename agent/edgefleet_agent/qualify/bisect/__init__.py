"""Which operator makes a candidate differ from its reference."""
