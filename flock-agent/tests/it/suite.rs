//! What a user sees of an agent, wherever it learns of the cluster: each behaviour is a test with a manifest directory
//! and one with an API server.

mod addresses;
mod claims;
mod config;
mod life;
mod report;
mod restart;

use crate::cluster::Source;
use crate::harness::TestNode;
use crate::netns::netns_available;

/// Makes two tests of each of these behaviours.
macro_rules! with_both_sources {
    ($($behaviour:ident),+ $(,)?) => {
        $(mod $behaviour {
            use crate::cluster::Source;

            #[test]
            fn with_manifests() {
                crate::suite::run(Source::Manifests, super::$behaviour);
            }

            #[test]
            fn with_api_server() {
                crate::suite::run(Source::ApiServer, super::$behaviour);
            }
        })+
    };
}
use with_both_sources;

/// Runs a behaviour on a node of its own, whose agent is not started yet.
fn run(source: Source, behaviour: fn(&TestNode)) {
    if netns_available() {
        behaviour(&TestNode::of(source));
    }
}
