//! How this kernel spreads flows over the members of a group.

use flock_core::ports::NetlinkError;
use flock_core::route::Weight;
use nix::errno::Errno;

use crate::conn::{Conn, errno};
use crate::nexthop::{self, Entry, Form, Object, Table};

/// How flows are spread over the pods that share an address. What comes first is better.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Spread {
    /// By resilient groups of nexthop objects (Linux 5.13): a pod that joins or leaves moves no flow of the
    /// others.
    Resilient,
    /// By plain groups (Linux 5.3): a third to a half of all flows move.
    Plain,
    /// By routes with several next hops, on kernels without nexthop objects.
    Multipath,
}

impl Spread {
    /// Of the groups to make, if there are any.
    pub(crate) fn form(self) -> Option<Form> {
        match self {
            Self::Resilient => Some(Form::RESILIENT),
            Self::Plain => Some(Form::Plain),
            Self::Multipath => None,
        }
    }

    /// What somebody should hear who runs a kernel that cannot do better.
    pub(crate) fn shortcoming(self) -> Option<&'static str> {
        match self {
            Self::Resilient => None,
            Self::Plain => Some("no resilient nexthop groups (Linux 5.13)"),
            Self::Multipath => Some("no nexthop objects (Linux 5.3)"),
        }
    }

    /// Tries, with a group that leads nowhere and is gone again. What a crash leaves of it is removed as any
    /// other nexthop object that no route needs.
    pub(crate) fn probe(conn: &mut Conn) -> Result<Self, NetlinkError> {
        let Some(table) = objects(conn)? else { return Ok(Self::Multipath) };
        let Some((way, group)) = table.spare() else { return Ok(Self::Resilient) };
        let entries = [Entry { id: way, weight: Weight::Full.number() }];
        let refusals = conn.run(vec![
            nexthop::add_blackhole(way),
            nexthop::write_group(group, Form::RESILIENT, &entries, false),
            nexthop::delete(group),
            nexthop::write_group(group, Form::Plain, &entries, false),
            nexthop::delete(group),
            nexthop::delete(way),
        ])?;
        let refusal = |at| refusals.iter().find(|(place, _)| *place == at).map(|(_, error)| error);
        for (at, spread) in [(1, Self::Resilient), (3, Self::Plain)] {
            match refusal(at).map(errno) {
                None => return Ok(spread),
                Some(Some(Errno::EOPNOTSUPP | Errno::EINVAL)) => {}
                Some(_) => break,
            }
        }
        match refusals.into_iter().next() {
            Some((_, error)) if !is_unknown(&error) => Err(error),
            _ => Ok(Self::Multipath),
        }
    }
}

fn is_unknown(error: &NetlinkError) -> bool {
    matches!(errno(error), Some(Errno::EOPNOTSUPP | Errno::EINVAL))
}

/// The nexthop objects; `None` where the kernel knows no such thing.
pub(crate) fn objects(conn: &mut Conn) -> Result<Option<Table>, NetlinkError> {
    match conn.dump(&nexthop::dump(), Object::read) {
        Ok(objects) => Ok(Some(Table::new(objects))),
        Err(error) if is_unknown(&error) => Ok(None),
        Err(error) => Err(error),
    }
}
