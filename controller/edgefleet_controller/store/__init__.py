"""The store: everything the controller knows, in SQL. Public to people's SQL: the `fleet_*` views."""

from edgefleet_controller.store.devices import DeviceRecord
from edgefleet_controller.store.errors import StoreError
from edgefleet_controller.store.facade import Store
from edgefleet_controller.store.records import RevisionRecord

__all__ = ["DeviceRecord", "RevisionRecord", "Store", "StoreError"]
