//! DDL that changes what a login gets: roles, and the settings that roles and databases give to their sessions.

use super::normalise::identifiers;
use super::tokens::Tokens;

/// What such a statement changes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Change {
    /// Who may log in, and with which secret.
    Secrets,
    /// What a new connection is given as well: settings, or the role behind its name.
    Sessions,
}

impl Change {
    /// Of one statement or of several; `None`: logins are what they were. In doubt more than there is.
    pub fn of(text: &[u8], conforming: bool) -> Option<Self> {
        let t = Tokens::new(text, conforming);
        let of = |at: usize| {
            let role = t.is_any(at + 1, &["role", "user", "group"]) && !t.is(at + 2, "mapping");
            let gives = || (at + 2..t.len()).any(|at| t.is_any(at, &["set", "reset", "rename"]));
            match t.keyword(at).as_str() {
                "create" if role => Some(Self::Secrets),
                "drop" if role => Some(Self::Sessions),
                "alter" if role && gives() => Some(Self::Sessions),
                "alter" if role => Some(Self::Secrets),
                "alter" if t.is(at + 1, "database") && gives() => Some(Self::Sessions),
                "do" if at == 0 => of_block(text, conforming),
                _ => None,
            }
        };
        (0..t.len()).filter_map(of).max()
    }
}

/// The body of a DO block, by its words.
fn of_block(text: &[u8], conforming: bool) -> Option<Change> {
    let (mut verb, mut object) = (false, false);
    identifiers(text, conforming, true, &mut |name| {
        verb |= matches!(name, "create" | "alter" | "drop");
        object |= matches!(name, "role" | "user" | "group" | "database");
    });
    (verb && object).then_some(Change::Sessions)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_new_logins_get() {
        let (secrets, sessions) = (Some(Change::Secrets), Some(Change::Sessions));
        for (sql, change) in [
            ("create role r login password 'x'", secrets),
            ("ALTER USER r PASSWORD 'set'", secrets),
            ("ALTER ROLE r NOLOGIN", secrets),
            ("alter role r set work_mem = '1MB'", sessions),
            ("ALTER ROLE ALL IN DATABASE d RESET ALL", sessions),
            ("alter user r rename to s", sessions),
            ("/* gone */ DROP ROLE IF EXISTS r", sessions),
            ("BEGIN; CREATE USER r; DROP GROUP g; COMMIT", sessions),
            ("ALTER DATABASE d SET timezone = 'UTC'", sessions),
            ("ALTER DATABASE d OWNER TO r", None),
            ("DO $$ BEGIN EXECUTE 'alter role r set work_mem = 1'; END $$", sessions),
            ("DO $$ BEGIN CREATE TABLE t (a int); END $$", None),
            ("CREATE USER MAPPING FOR r SERVER s", None),
            ("ALTER TABLE t ADD COLUMN role text", None),
            ("GRANT r TO s", None),
        ] {
            assert_eq!(Change::of(sql.as_bytes(), true), change, "{sql}");
        }
    }
}
