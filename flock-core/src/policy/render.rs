//! Rules as nftables text.
