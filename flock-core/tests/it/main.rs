//! The decisions of flock-core, seen from outside: tables of inputs with their exact answers, and laws over
//! random sequences of operations.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod annotation;
mod anycast;
mod app;
mod claims;
mod config;
mod config_claims;
mod family;
mod firewall;
mod given;
mod iid;
mod ipam;
mod ipam_model;
mod plan;
mod policy_api;
mod policy_cluster;
mod policy_given;
mod policy_model;
mod policy_rules;
mod reconcile;
mod restart;
mod route;
mod subranges;
mod sweep;
mod world;
