//! Which sharded tables of a statement must hold equal keys, and which keys those are.
//!
//! A *node* is one mention of a sharded table. Nodes whose keys are equal in every row that matters are united. Where the
//! equality holds in one direction only (the nullable side of an outer join, a correlated subquery) the one node is
//! *attached* to the other: values known of the parent hold for the child, never the reverse. An outer join is *reduced*
//! when a condition above it rejects its NULLs; its attachments then become unions.
//!
//! Invariant: a group's pin holds for every node of the group; a node that cannot be tied to others is a group of
//! its own, which is always right, if refused more often.

use router_config::key::KeyType;

use crate::sql::facts::Pin;

/// Index of a node.
pub(super) type NodeId = usize;

/// Index of the nullable side of an outer join.
pub(super) type JoinId = usize;

/// How a child hangs on its parent.
#[derive(Debug, Clone, Copy)]
pub(super) enum Via {
    /// A correlated subquery, IN, or the like: the parent's key decides the child's.
    Correlation,
    /// LEFT or RIGHT JOIN: the child is on the side that this join may fill with NULLs.
    Outer(JoinId),
    /// FULL JOIN: first the side of the parent, then that of the child.
    Full(JoinId, JoinId),
}

/// A reason why answers of several shards cannot be concatenated.
#[derive(Debug)]
pub(super) struct Obstacle {
    /// In words.
    pub(super) reason: String,
    /// It does no harm if all these nodes are tied to a key outside of them. Empty: it always counts.
    pub(super) inside: Vec<NodeId>,
    /// It does no harm if this node is never NULL: grouping by the key, for instance.
    pub(super) unless_not_null: Option<NodeId>,
    /// It does no harm once this join is reduced.
    pub(super) unless_reduced: Option<JoinId>,
}

/// One mention of a sharded table.
#[derive(Debug)]
pub(super) struct Node {
    /// For messages.
    pub(super) name: String,
    pub(super) key_type: KeyType,
    /// Outer joins that may make it NULL.
    pub(super) nullable_in: Vec<JoinId>,
}

/// The nodes of a statement and what ties them.
#[derive(Debug, Default)]
pub(super) struct Groups {
    pub(super) nodes: Vec<Node>,
    parent: Vec<NodeId>,
    attachments: Vec<(NodeId, NodeId, Via)>,
    reduced: Vec<bool>,
    pins: Vec<(NodeId, Pin)>,
    obstacles: Vec<Obstacle>,
}

/// What is left at the end.
#[derive(Debug)]
pub(super) struct Resolved {
    /// The pin of each group.
    pub(super) pins: Vec<Pin>,
    /// Why the answers of several shards are not the answer.
    pub(super) obstacle: Option<String>,
}

impl Groups {
    pub(super) fn add(&mut self, name: String, key_type: KeyType) -> NodeId {
        self.nodes.push(Node { name, key_type, nullable_in: Vec::new() });
        self.parent.push(self.nodes.len() - 1);
        self.nodes.len() - 1
    }

    pub(super) fn add_join(&mut self) -> JoinId {
        self.reduced.push(false);
        self.reduced.len() - 1
    }

    /// These nodes may be NULL because of `join`.
    pub(super) fn make_nullable(&mut self, nodes: &[NodeId], join: JoinId) {
        for &node in nodes {
            self.nodes[node].nullable_in.push(join);
        }
    }

    /// A condition at this point holds only where the node is not NULL.
    pub(super) fn reject_null(&mut self, node: NodeId) {
        for &join in &self.nodes[node].nullable_in {
            self.reduced[join] = true;
        }
    }

    fn find(&self, mut node: NodeId) -> NodeId {
        while self.parent[node] != node {
            node = self.parent[node];
        }
        node
    }

    pub(super) fn unite(&mut self, a: NodeId, b: NodeId) {
        let (a, b) = (self.find(a), self.find(b));
        self.parent[a.max(b)] = a.min(b);
    }

    pub(super) fn attach(&mut self, child: NodeId, parent: NodeId, via: Via) {
        self.attachments.push((child, parent, via));
    }

    pub(super) fn pin(&mut self, node: NodeId, pin: Pin) {
        self.pins.push((node, pin));
    }

    /// Whether a condition fixed the node's key just so.
    pub(super) fn has_pin(&self, node: NodeId, pin: &Pin) -> bool {
        *pin != Pin::Never && self.pins.iter().any(|(n, p)| *n == node && p == pin)
    }

    /// What conditions demand of the node itself.
    pub(super) fn pins_of(&self, node: NodeId) -> impl Iterator<Item = &Pin> {
        self.pins.iter().filter(move |(n, _)| *n == node).map(|(_, pin)| pin)
    }

    /// Whether an outer join's condition makes the keys of `child` and `parent` equal.
    pub(super) fn hangs_on(&self, child: NodeId, parent: NodeId) -> bool {
        self.find(child) == self.find(parent)
            || self.attachments.iter().any(|(c, p, _)| *c == child && self.find(*p) == self.find(parent))
    }

    pub(super) fn obstacle(&mut self, obstacle: Obstacle) {
        self.obstacles.push(obstacle);
    }

    /// An obstacle that nothing removes.
    pub(super) fn always(&mut self, reason: impl Into<String>) {
        self.obstacles.push(Obstacle {
            reason: reason.into(),
            inside: Vec::new(),
            unless_not_null: None,
            unless_reduced: None,
        });
    }

    /// Settles unions, attachments, pins and obstacles.
    pub(super) fn resolve(mut self) -> Resolved {
        let attachments = std::mem::take(&mut self.attachments);
        for &(child, parent, via) in &attachments {
            let equal = match via {
                Via::Correlation => false,
                Via::Outer(join) => self.reduced[join],
                Via::Full(left, right) => self.reduced[left] && self.reduced[right],
            };
            if equal {
                self.unite(child, parent);
            }
        }
        let mut above: Vec<Option<(NodeId, bool)>> = vec![None; self.nodes.len()];
        for &(child, parent, via) in &attachments {
            let (child, parent) = (self.find(child), self.find(parent));
            if child == parent || above[child].is_some() || reaches(&above, &self, parent, child) {
                continue;
            }
            let down = match via {
                Via::Correlation | Via::Outer(_) => true,
                Via::Full(left, _) => self.reduced[left],
            };
            above[child] = Some((parent, down));
        }
        let obstacle = self.standing_obstacle(&above);
        let pins = self.group_pins(&above);
        Resolved { pins, obstacle }
    }

    fn standing_obstacle(&self, above: &[Option<(NodeId, bool)>]) -> Option<String> {
        let stands = |o: &&Obstacle| {
            let tied =
                !o.inside.is_empty() && o.inside.iter().all(|&n| self.tied_outside(above, n, &o.inside));
            let not_null = o
                .unless_not_null
                .is_some_and(|n| self.nodes[n].nullable_in.iter().all(|&join| self.reduced[join]));
            let reduced = o.unless_reduced.is_some_and(|join| self.reduced[join]);
            !(tied || not_null || reduced)
        };
        self.obstacles.iter().find(stands).map(|o| o.reason.clone())
    }

    /// Whether the key of `node` is decided by a node that is not one of `inside`.
    fn tied_outside(&self, above: &[Option<(NodeId, bool)>], node: NodeId, inside: &[NodeId]) -> bool {
        let mut at = self.find(node);
        while let Some((parent, _)) = above[at] {
            at = self.find(parent);
            if !inside.iter().any(|&n| self.find(n) == at) {
                return true;
            }
        }
        false
    }

    fn group_pins(&self, above: &[Option<(NodeId, bool)>]) -> Vec<Pin> {
        let mut roots: Vec<(NodeId, bool)> = Vec::new();
        for node in 0..self.nodes.len() {
            let mut at = self.find(node);
            let mut holds = true;
            while let Some((parent, down)) = above[at] {
                holds &= down;
                at = self.find(parent);
            }
            match roots.iter_mut().find(|(root, _)| *root == at) {
                Some((_, all)) => *all &= holds,
                None => roots.push((at, holds)),
            }
        }
        let best = |root: NodeId| {
            let pins = self.pins.iter().filter(|(node, _)| self.find(*node) == root).map(|(_, pin)| pin);
            pins.min_by_key(|pin| rank(pin)).cloned().unwrap_or(Pin::Any)
        };
        roots.into_iter().map(|(root, holds)| if holds { best(root) } else { Pin::Any }).collect()
    }
}

/// Whether going up from `from` meets `target`.
fn reaches(above: &[Option<(NodeId, bool)>], groups: &Groups, from: NodeId, target: NodeId) -> bool {
    let mut at = from;
    loop {
        if at == target {
            return true;
        }
        match above[at] {
            Some((parent, _)) => at = groups.find(parent),
            None => return false,
        }
    }
}

/// Of several pins of one group any one is right; the narrowest is used.
fn rank(pin: &Pin) -> usize {
    match pin {
        Pin::Never => 0,
        Pin::Insert => 1,
        Pin::Keys(terms) => 1 + terms.len(),
        Pin::Array(_) => usize::MAX - 1,
        Pin::Any => usize::MAX,
    }
}
