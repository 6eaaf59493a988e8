use std::net::IpAddr;

use crate::ids::IfName;

/// How much of what is new a member of a group gets. What is open stays where it is, whatever the weight.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Weight {
    /// As much as any other: 255, the most that every kernel takes.
    Full,
    /// As little as can be: 1. For a member on its way out, so that its open flows end in peace.
    Least,
}

impl Weight {
    /// The kernel's number.
    pub const fn number(self) -> u16 {
        match self {
            Self::Full => 255,
            Self::Least => 1,
        }
    }

    /// The inverse of [`number`](Self::number); `None` for one flock never gives.
    pub const fn from_number(number: u16) -> Option<Self> {
        match number {
            255 => Some(Self::Full),
            1 => Some(Self::Least),
            _ => None,
        }
    }
}

/// One of several ways to an address: `via GATEWAY dev LINK onlink`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Member {
    /// The pod's own address of the destination's family.
    pub gateway: IpAddr,
    /// The host's end of the pod's link.
    pub link: IfName,
    /// Its share.
    pub weight: Weight,
}

/// The members of a group: at least one, in the order of gateway and link, each once. Weights only say
/// something about each other, so where nobody is [`Weight::Full`] everybody is: equal sets forward
/// equally, and the other way round.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Members(Vec<Member>);

impl Members {
    /// Puts members in order; of one that is there twice the greater weight counts. `None` without any.
    pub fn new(members: impl IntoIterator<Item = Member>) -> Option<Self> {
        let mut members: Vec<Member> = members.into_iter().collect();
        members.sort_unstable();
        members.dedup_by(|later, kept| (later.gateway, &later.link) == (kept.gateway, &kept.link));
        if members.iter().all(|member| member.weight == Weight::Least) {
            for member in &mut members {
                member.weight = Weight::Full;
            }
        }
        (!members.is_empty()).then_some(Self(members))
    }

    /// Those of them to keep; `None` when that is nobody.
    pub fn filter(&self, keep: impl Fn(&Member) -> bool) -> Option<Self> {
        Self::new(self.0.iter().filter(|member| keep(member)).cloned())
    }

    /// In order.
    pub fn iter(&self) -> impl ExactSizeIterator<Item = &Member> {
        self.0.iter()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(host: u8, link: u8, weight: Weight) -> Member {
        let gateway = [192, 0, 2, host].into();
        Member { gateway, link: IfName::parse(&format!("flock0000000{link}")).unwrap(), weight }
    }

    #[test]
    fn the_same_members_are_equal_in_whatever_order_they_come() {
        use Weight::{Full, Least};
        let two = [member(1, 1, Full), member(2, 1, Least)];
        let same = [
            vec![member(1, 1, Full), member(2, 1, Least)],
            vec![member(2, 1, Least), member(1, 1, Full)],
            vec![member(2, 1, Least), member(1, 1, Least), member(1, 1, Full), member(2, 1, Least)],
        ];
        for members in same {
            assert_eq!(Members::new(members).unwrap().iter().cloned().collect::<Vec<_>>(), two);
        }
        assert_ne!(Members::new(two.clone()), Members::new([member(1, 1, Full), member(2, 2, Least)]));
        assert_eq!(Members::new([]), None);
    }

    #[test]
    fn without_a_full_member_all_are() {
        use Weight::{Full, Least};
        for count in 1..4 {
            let of = |weight| Members::new((0..count).map(|host| member(host, 1, weight)));
            assert_eq!(of(Least), of(Full), "{count}");
        }
        let both = Members::new([member(1, 1, Full), member(2, 2, Least)]).unwrap();
        let left = both.filter(|member| member.weight == Least);
        assert_eq!(left, Members::new([member(2, 2, Full)]), "the last one gets everything");
        assert_eq!(both.filter(|_| false), None);
    }

    #[test]
    fn weights_read_back() {
        for weight in [Weight::Full, Weight::Least] {
            assert_eq!(Weight::from_number(weight.number()), Some(weight));
        }
        for number in [0, 2, 254, 256, u16::MAX] {
            assert_eq!(Weight::from_number(number), None, "{number}");
        }
    }
}
