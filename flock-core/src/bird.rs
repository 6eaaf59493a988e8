//! What BIRD should run: from a node's configuration to a [`RoutingConfig`], and from that to the text of
//! bird.conf. BIRD learns what to announce from marked kernel routes, so the text holds peers only and
//! changes only when they do.
//!
//! [`RoutingConfig`]: crate::ports::RoutingConfig
//!
//! ```
//! # use flock_core::{bird, ports::{RoutingConfig, RoutingPeer}};
//! let peer = "2001:db8::1".parse()?;
//! let config = RoutingConfig {
//!     router_id: "192.0.2.10".parse()?,
//!     asn: 65101,
//!     peers: vec![RoutingPeer { address: peer, asn: 65000, local: Some("2001:db8::10".parse()?) }],
//!     ipv6: true,
//!     ipv4: false,
//! };
//! let text = bird::render(&config)?;
//! assert!(text.contains("neighbor 2001:db8::1 as 65000;"));
//! assert_eq!(bird::peer_of(&bird::protocol_name(peer)), Some(peer));
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod names;
mod plan;
mod render;

pub use names::{peer_of, protocol_name};
pub use plan::{derived_router_id, routing_config, unheard_pools};
pub use render::{RenderError, bootstrap, render};
