"""Energy and temperature of a load, from the readings of sensors."""
