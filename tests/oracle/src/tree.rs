//! PostgreSQL's parse tree as JSON, and the small questions that are asked of it.
//!
//! Going through JSON makes a walk over *all* of a tree a few lines, so that nothing is left out because somebody forgot
//! a field.

use serde_json::Value;

/// Parses one statement; `None` when PostgreSQL rejects it or there are several.
pub fn parse(sql: &str) -> Option<Value> {
    let parsed = pg_query::parse(sql, 0).ok()?;
    let [statement] = parsed.protobuf.stmts.as_slice() else { return None };
    serde_json::to_value(&statement.stmt).ok()
}

/// Tag and body of a node.
pub fn node(v: &Value) -> Option<(&str, &Value)> {
    let inner = v.get("node")?.as_object()?;
    inner.iter().next().map(|(tag, body)| (tag.as_str(), body))
}

/// The body if the node has this tag.
pub fn is<'v>(v: &'v Value, tag: &str) -> Option<&'v Value> {
    node(v).filter(|(t, _)| *t == tag).map(|(_, body)| body)
}

/// A field, `Null` if it is not there.
pub fn field<'v>(v: &'v Value, name: &str) -> &'v Value {
    v.get(name).unwrap_or(&Value::Null)
}

/// A list field.
pub fn list<'v>(v: &'v Value, name: &str) -> &'v [Value] {
    v.get(name).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A string field; empty if it is not there.
pub fn text<'v>(v: &'v Value, name: &str) -> &'v str {
    v.get(name).and_then(Value::as_str).unwrap_or("")
}

/// A number field.
pub fn number(v: &Value, name: &str) -> i64 {
    v.get(name).and_then(Value::as_i64).unwrap_or(0)
}

/// A flag field.
pub fn flag(v: &Value, name: &str) -> bool {
    v.get(name).and_then(Value::as_bool).unwrap_or(false)
}

/// Strings of a list of String nodes.
pub fn strings(items: &[Value]) -> Vec<String> {
    items.iter().filter_map(|i| is(i, "String")).map(|s| text(s, "sval").to_string()).collect()
}

/// Calls `found` for every object of the tree, parents first.
pub fn each<'v>(v: &'v Value, found: &mut dyn FnMut(&'v serde_json::Map<String, Value>)) {
    match v {
        Value::Object(map) => {
            found(map);
            map.values().for_each(|child| each(child, found));
        }
        Value::Array(items) => items.iter().for_each(|child| each(child, found)),
        _ => {}
    }
}

/// Bodies of all nodes with this tag.
pub fn all<'v>(v: &'v Value, tag: &str) -> Vec<&'v Value> {
    let mut out = Vec::new();
    each(v, &mut |map| out.extend(map.get(tag).filter(|body| body.is_object())));
    out
}

/// `(schema, name)` of a RangeVar.
pub fn range_var(v: &Value) -> Option<(Option<String>, String)> {
    let name = v.get("relname")?.as_str()?;
    let schema = text(v, "schemaname");
    Some(((!schema.is_empty()).then(|| schema.to_string()), name.to_string()))
}
