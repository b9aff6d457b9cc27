"""The language both sides of edgefleet speak: manifest, artifacts, desired state, reports, topics and wire."""
