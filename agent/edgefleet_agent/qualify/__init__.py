"""Qualification: the on-device trial of one artifact."""
