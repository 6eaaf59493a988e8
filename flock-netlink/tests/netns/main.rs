//! The kernel adapter in real network namespaces.
