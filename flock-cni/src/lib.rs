//! The CNI protocol (specification 0.4.0, 1.0.0 and 1.1.0) and the wire between plugin and agent.
//!
//! ```text
//!  runtime --environment, stdin--> args, netconf --Request--> rpc ==unix socket==> flock-agent
//!  runtime <------stdout---------- result, error <---Reply--- rpc <=============
//! ```
//!
//! The plugin decides nothing about pods: it checks what the runtime says, hands it to the agent and puts
//! the answer into the form of the runtime's version. `flock-agent` uses [`wire`], the codes of [`error`]
//! and [`rpc`].
//!
//! # Verbs
//!
//! | verb | environment | configuration | agent |
//! |---|---|---|---|
//! | ADD | container ID, ifname, netns; `CNI_ARGS` | `name`, `mtu`, `dns`, pod annotations, no `prevResult` | yes |
//! | DEL | container ID, ifname | | yes |
//! | CHECK | container ID, ifname, netns | `name`, `prevResult` | yes |
//! | GC, from 1.1.0 | | `name`, `cni.dev/valid-attachments` | unless the list is null |
//! | STATUS, from 1.1.0 | | as ADD | yes, briefly |
//! | VERSION | | `cniVersion`, where given | no |
//!
//! Every verb but VERSION also reads `cniVersion` and `agentSocket`. `CNI_PATH` is never needed.

mod args;
pub mod error;
mod netconf;
pub mod plugin;
pub mod result;
pub mod rpc;
pub mod stdin;
pub mod version;
pub mod wire;
