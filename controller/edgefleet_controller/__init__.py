"""The controller: compiles declared models, brings them to devices and keeps the evidence."""
