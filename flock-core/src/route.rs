//! Routes flock writes into the kernel's main table, and the difference between what should be there
//! and what is. A route is the message: its protocol number tells BIRD whether to announce it.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};

use crate::ids::IfName;

mod group;

pub use group::{Member, Members, Weight};

/// Who may hear of a route. The kernel route protocol (`rtm_protocol`, see `rtnetlink(7)`) carries it,
/// and marks the route as ours: flock never touches a route with another number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteProtocol {
    /// BIRD learns and announces it: protocol 117.
    Announce,
    /// Local forwarding only: protocol 118.
    Quiet,
}

impl RouteProtocol {
    /// Both, in the order of their numbers.
    pub const ALL: [Self; 2] = [Self::Announce, Self::Quiet];

    /// The value of `rtm_protocol`.
    pub const fn number(self) -> u8 {
        match self {
            Self::Announce => 117,
            Self::Quiet => 118,
        }
    }

    /// The inverse of [`number`](Self::number); `None` for a route of somebody else.
    pub const fn from_number(number: u8) -> Option<Self> {
        match number {
            117 => Some(Self::Announce),
            118 => Some(Self::Quiet),
            _ => None,
        }
    }
}

/// Where a route leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum NextHop {
    /// Answers "unreachable" (`RTN_UNREACHABLE`): the aggregate of a pool, so that an unassigned
    /// address does not loop between the node and its router.
    Unreachable,
    /// On-link through this interface (scope link, no gateway): a pod's own address.
    Link(IfName),
    /// Spread over several pods by flow: an anycast address. A group from the first member on, so that
    /// the second moves no flow of the first.
    Group(Members),
}

impl NextHop {
    /// What is left of it while only these links are there; `None` for nothing.
    pub fn over(&self, is_there: impl Fn(&IfName) -> bool) -> Option<Self> {
        match self {
            Self::Unreachable => Some(Self::Unreachable),
            Self::Link(link) => is_there(link).then(|| self.clone()),
            Self::Group(members) => members.filter(|member| is_there(&member.link)).map(Self::Group),
        }
    }

    /// The links it leads through.
    pub fn links(&self) -> impl Iterator<Item = &IfName> {
        let (link, members) = match self {
            Self::Unreachable => (None, None),
            Self::Link(link) => (Some(link), None),
            Self::Group(members) => (None, Some(members)),
        };
        link.into_iter().chain(members.into_iter().flat_map(Members::iter).map(|member| &member.link))
    }
}

/// One route of the main table.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// The prefix, without host bits.
    pub destination: IpNet,
    /// Announced or not.
    pub protocol: RouteProtocol,
    /// Where it leads.
    pub next_hop: NextHop,
}

/// A route of our protocol numbers as the kernel reports it. Some cannot be expressed as a [`Route`]
/// (an interface that is gone, a next hop flock never writes): those have no `next_hop` and are drift.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObservedRoute {
    /// The prefix.
    pub destination: IpNet,
    /// Announced or not.
    pub protocol: RouteProtocol,
    /// Where it leads, if in exactly the form flock writes here and now: a group of another kind, or with a
    /// stranger in it, is none.
    pub next_hop: Option<NextHop>,
    /// The kernel's metric (`RTA_PRIORITY`). The same prefix with another metric is another route.
    pub metric: u32,
}

impl ObservedRoute {
    /// The metric the kernel gives a route written without one: 1024 for IPv6
    /// (`IP6_RT_PRIO_USER`), 0 for IPv4.
    pub const fn default_metric(destination: &IpNet) -> u32 {
        match destination {
            IpNet::V6(_) => 1024,
            IpNet::V4(_) => 0,
        }
    }

    fn is(&self, wanted: &Route) -> bool {
        self.protocol == wanted.protocol
            && self.next_hop.as_ref() == Some(&wanted.next_hop)
            && self.metric == Self::default_metric(&self.destination)
    }
}

impl From<Route> for ObservedRoute {
    fn from(route: Route) -> Self {
        Self {
            destination: route.destination,
            protocol: route.protocol,
            metric: Self::default_metric(&route.destination),
            next_hop: Some(route.next_hop),
        }
    }
}

/// The routes that should exist: at most one per prefix, in the order of their prefixes.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteSet(BTreeMap<IpNet, Route>);

/// What has to change. Written before it is removed from, so that no packet finds a gap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct RouteDiff {
    /// To write: missing, or there with another protocol or next hop, and then overwritten (`NLM_F_REPLACE`). Where
    /// only the members of a group differ, the group is what is written.
    pub replace: Vec<Route>,
    /// To delete: ours, but no longer wanted, left with another metric, or beside a wanted one.
    pub remove: Vec<ObservedRoute>,
}

impl RouteDiff {
    /// How many prefixes are no longer announced, or known not to be.
    pub fn withdrawn(&self) -> usize {
        let quiet = self.replace.iter().filter(|route| route.protocol == RouteProtocol::Quiet).count();
        let is_written =
            |seen: &ObservedRoute| self.replace.iter().any(|it| it.destination == seen.destination);
        let announced = self.remove.iter().filter(|seen| seen.protocol == RouteProtocol::Announce);
        quiet + announced.filter(|seen| !is_written(seen)).count()
    }

    /// True when the kernel already has exactly what is wanted.
    pub fn is_empty(&self) -> bool {
        self.replace.is_empty() && self.remove.is_empty()
    }
}

impl RouteSet {
    /// Adds a route; a later one for the same prefix takes the place of the earlier.
    pub fn insert(&mut self, mut route: Route) {
        route.destination = route.destination.trunc();
        self.0.insert(route.destination, route);
    }

    /// Takes the route for exactly this prefix out, if there is one.
    pub fn remove(&mut self, destination: &IpNet) {
        self.0.remove(destination);
    }

    /// The route for exactly this prefix.
    pub fn get(&self, destination: &IpNet) -> Option<&Route> {
        self.0.get(destination)
    }

    /// All routes, in the order of their prefixes.
    pub fn iter(&self) -> impl Iterator<Item = &Route> {
        self.0.values()
    }

    /// Number of routes.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// True when no route is wanted.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// What of it can be while only these links are there: a member of a group goes with its link, a route with
    /// the last of its ways.
    #[must_use]
    pub fn over(&self, is_there: impl Fn(&IfName) -> bool) -> Self {
        let left = |route: &Route| Some(Route { next_hop: route.next_hop.over(&is_there)?, ..route.clone() });
        self.iter().filter_map(left).collect()
    }

    /// What turns `observed`, in the order the kernel lists it, into this set.
    ///
    /// The kernel can hold several routes of one prefix and metric. It forwards by the first, a replace
    /// overwrites the first, and a replace with one that is further down is refused (IPv4) or makes a twin
    /// of it (IPv6). So a wanted route that is there at all is kept, and what it shares its place with goes.
    pub fn diff(&self, observed: &[ObservedRoute]) -> RouteDiff {
        let mut diff = RouteDiff::default();
        let mut slots: BTreeMap<IpNet, Vec<&ObservedRoute>> = BTreeMap::new();
        for seen in observed {
            let in_slot = seen.metric == ObservedRoute::default_metric(&seen.destination);
            if in_slot && self.0.contains_key(&seen.destination) {
                slots.entry(seen.destination).or_default().push(seen);
            } else {
                diff.remove.push(seen.clone());
            }
        }
        for route in self.iter() {
            let slot = slots.remove(&route.destination).unwrap_or_default();
            let present = slot.iter().any(|seen| seen.is(route));
            if !present {
                diff.replace.push(route.clone());
            }
            let others = slot.into_iter().filter(|seen| !seen.is(route));
            diff.remove.extend(others.skip(usize::from(!present)).cloned());
        }
        diff.remove.sort();
        diff.remove.dedup();
        diff
    }
}

impl FromIterator<Route> for RouteSet {
    fn from_iter<I: IntoIterator<Item = Route>>(routes: I) -> Self {
        let mut set = Self::default();
        routes.into_iter().for_each(|route| set.insert(route));
        set
    }
}

/// The prefix that holds exactly this address: /128 or /32.
pub fn host_prefix(address: IpAddr) -> IpNet {
    IpNet::from(address)
}

/// Gateway of every pod's IPv6 default route, an address of every host veth.
pub const GATEWAY6: Ipv6Addr = Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 1);

/// Gateway of every pod's IPv4 default route. No interface has it: the pod reaches it through a
/// permanent neighbour entry, since an IPv4 address on a host veth would change the source address
/// the node itself uses.
pub const GATEWAY4: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);

/// The aggregate of a pool: announced, and unreachable for what no pod holds.
pub fn aggregate(pool: IpNet) -> Route {
    Route { destination: pool.trunc(), protocol: RouteProtocol::Announce, next_hop: NextHop::Unreachable }
}

/// True when a pool of the address's family covers it.
pub fn in_pools(address: IpAddr, cidr6: &[Ipv6Net], cidr4: &[Ipv4Net]) -> bool {
    match address {
        IpAddr::V6(address) => cidr6.iter().any(|pool| pool.contains(&address)),
        IpAddr::V4(address) => cidr4.iter().any(|pool| pool.contains(&address)),
    }
}
