//! What surrounds the agent goes wrong: disk, manifests, namespaces, another agent, a reboot.
