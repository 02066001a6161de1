//! One row of each shard into one row: the parts of aggregates, put together.

use bytes::BytesMut;

use super::decimal::Decimal;
use super::key::{Unreadable, encode, integer, number};
use super::merge::{Broken, binary};
use super::row;
use crate::route::plan::{Fold, GatherKey, KeyColumn};
use crate::sql::gather_shape::Comparable;

/// Value of one column so far.
#[derive(Debug)]
enum Cell {
    /// NULL.
    Nothing,
    /// A sum that is an `int8`.
    Integer(i64),
    /// A sum that is a `numeric`.
    Decimal(Decimal),
    /// The first in an order, with its key.
    First(Vec<u8>, Vec<u8>),
}

/// Puts rows together.
#[derive(Debug)]
pub struct Folder {
    cells: Vec<Cell>,
}

impl Folder {
    /// Of no rows yet.
    pub fn new(folds: &[Fold]) -> Self {
        Self { cells: folds.iter().map(|_| Cell::Nothing).collect() }
    }

    /// One more row, by its body.
    pub fn add(&mut self, folds: &[Fold], body: &[u8], formats: &[i16]) -> Result<(), Broken> {
        let values: Vec<Option<&[u8]>> = row::values(body).collect();
        for (at, (fold, cell)) in folds.iter().zip(&mut self.cells).enumerate() {
            let value = *values.get(at).ok_or(Broken::Columns)?;
            let Some(value) = value else { continue };
            let binary = binary(formats, at);
            match fold {
                Fold::Integers => add_integer(cell, value, binary)?,
                Fold::Numerics => {
                    let more = Decimal::read(value, binary)?;
                    let sum = match std::mem::replace(cell, Cell::Nothing) {
                        Cell::Decimal(sum) => sum.plus(more),
                        Cell::Nothing | Cell::Integer(_) | Cell::First(..) => more,
                    };
                    *cell = Cell::Decimal(sum);
                }
                Fold::First(key) => first(cell, *key, (&values, folds.len()), (value, formats))?,
            }
        }
        Ok(())
    }

    /// Appends the row.
    pub fn put(&self, out: &mut BytesMut, formats: &[i16]) {
        let mut values = Vec::new();
        for (at, cell) in self.cells.iter().enumerate() {
            let value = match cell {
                Cell::Nothing => {
                    values.extend_from_slice(&(-1_i32).to_be_bytes());
                    continue;
                }
                Cell::Integer(sum) if binary(formats, at) => sum.to_be_bytes().to_vec(),
                Cell::Integer(sum) => sum.to_string().into_bytes(),
                Cell::Decimal(sum) => sum.write(binary(formats, at)),
                Cell::First(_, value) => value.clone(),
            };
            values.extend_from_slice(&(value.len() as i32).to_be_bytes());
            values.extend_from_slice(&value);
        }
        row::put(out, self.cells.len() as u16, &values);
    }
}

fn add_integer(cell: &mut Cell, value: &[u8], binary: bool) -> Result<(), Broken> {
    let more = if binary { integer(Comparable::Int8, value)? } else { number(value)? };
    let sum = match cell {
        Cell::Integer(sum) => *sum,
        Cell::Nothing | Cell::Decimal(_) | Cell::First(..) => 0,
    };
    *cell = Cell::Integer(sum.checked_add(more).ok_or(Broken::Overflow)?);
    Ok(())
}

/// Keeps the value whose key comes first.
fn first(
    cell: &mut Cell,
    key: GatherKey,
    (values, columns): (&[Option<&[u8]>], usize),
    (value, formats): (&[u8], &[i16]),
) -> Result<(), Broken> {
    let at = match key.column {
        KeyColumn::Output(at) => at,
        KeyColumn::Hidden(at) => columns + at,
    };
    let mut code = Vec::new();
    let of = values.get(at).copied().flatten().ok_or(Unreadable)?;
    encode(&mut code, key.order, Some(of), binary(formats, at))?;
    if !matches!(cell, Cell::First(best, _) if *best <= code) {
        *cell = Cell::First(code, value.to_vec());
    }
    Ok(())
}
