//! What can be the name of a table or a function in the catalog, and what cannot.
//!
//! Names are compared as they are stored there, without folding: what is refused here could never match anything.

/// PostgreSQL cuts names to this many bytes.
const MAX_NAME: usize = 63;

/// Why no table can have this name, and what to write instead.
pub(super) fn table_fault(name: &str) -> Option<(String, String)> {
    let cure =
        "write \"table\" or \"schema.table\", as stored in the catalog: in lower case unless made in quotes";
    if name.contains(['*', '?']) {
        return Some((
            format!("\"{name}\" is a pattern"),
            format!("write pattern = \"{name}\" instead of name"),
        ));
    }
    if name.contains('"') {
        return Some((format!("\"{name}\" has quotes in it"), format!("{cure}, and without quotes")));
    }
    if name.matches('.').count() > 1 {
        return Some((format!("\"{name}\" has more than two parts"), cure.to_owned()));
    }
    parts_fault(name).map(|fault| (fault, cure.to_owned()))
}

/// Why no table can match this pattern, and what to write instead.
pub(super) fn pattern_fault(pattern: &str) -> Option<(String, String)> {
    let cure = "write a pattern over \"table\" or \"schema.table\", as in \"archive_*\" or \"archive.*\"";
    let (schema, table) = pattern.split_once('.')?;
    (schema.is_empty() || table.is_empty())
        .then(|| (format!("\"{pattern}\" has an empty part"), cure.to_owned()))
}

/// Why no function can have this name, and what to write instead.
pub(super) fn function_fault(name: &str) -> Option<(String, String)> {
    let bare = name.split('(').next().unwrap_or_default().trim_end();
    let bare = bare.rsplit('.').next().unwrap_or_default().replace('"', "");
    if bare != name {
        let cure = if bare.is_empty() {
            "write its name alone".to_owned()
        } else {
            format!("write \"{bare}\": without schema, arguments and quotes, for all functions of that name")
        };
        return Some((format!("\"{name}\" is not a function's name alone"), cure));
    }
    parts_fault(name).map(|fault| (fault, "write the name as stored in the catalog".to_owned()))
}

fn parts_fault(name: &str) -> Option<String> {
    name.split('.').find_map(|part| match part.len() {
        0 => Some(format!("\"{name}\" has an empty part")),
        length if length > MAX_NAME => {
            Some(format!("a name has at most {MAX_NAME} bytes, \"{part}\" has {length}"))
        }
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables() {
        for good in ["users", "app.users", "Users", "my table", "größe", "a-b"] {
            assert_eq!(table_fault(good), None, "{good}");
        }
        let long = "x".repeat(64);
        for (bad, said) in [
            ("a.b.c", "more than two parts"),
            (".x", "an empty part"),
            ("x.", "an empty part"),
            ("users*", "is a pattern"),
            ("\"My Table\"", "quotes"),
            (long.as_str(), "at most 63 bytes"),
        ] {
            assert!(table_fault(bad).is_some_and(|(fault, _)| fault.contains(said)), "{bad}");
        }
        assert_eq!(pattern_fault("archive.*"), None);
        assert_eq!(pattern_fault("*_log"), None);
        assert!(pattern_fault(".x*").is_some() && pattern_fault("x*.").is_some());
    }

    #[test]
    fn functions() {
        assert_eq!(function_fault("place_bid"), None);
        assert_eq!(function_fault("größe"), None);
        for bad in ["public.f", "f(int)", "public.f(int)", "\"f\"", "f ()", "(", "f."] {
            let (_, cure) = function_fault(bad).expect("not a name");
            assert!(cure.starts_with("write \"f\"") || ["(", "f."].contains(&bad), "{bad}: {cure}");
        }
    }
}
