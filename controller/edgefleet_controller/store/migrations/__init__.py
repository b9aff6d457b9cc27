"""Migrations of the store, run by `edgefleet_controller.store.migrate`."""
