// Stands in for the system's own header when bindings for aarch64 are generated elsewhere; nothing of it is used.
