//! Contents of a redb database, read without the types of its tables.
//!
//! redb opens a table only under the types that it was made with, and says them when they are wrong. So each table is opened
//! under types that take any bytes and say what redb wants to hear: `AnyKey` and `AnyValue`, whose names and widths are
//! those of the table at hand. They are read from first to last, which compares no keys.

use std::cell::RefCell;
use std::cmp::Ordering;

use redb::{
    Key, MultimapTableDefinition, MultimapTableHandle as _, ReadableDatabase, ReadableMultimapTable as _,
    ReadableTable as _, TableDefinition, TableError, TableHandle as _, TypeName, Value,
};
use serde::Serialize;
use sha2::{Digest as _, Sha256};

use crate::position::Digest;

/// Contents of one table.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct TableContents {
    /// Name of the table.
    pub name: String,
    /// Number of rows; of a multimap, of pairs.
    pub rows: u64,
    /// Size of all keys and values, in bytes.
    pub bytes: u64,
    /// SHA-256 over all rows in order: length and bytes of the key, length and bytes of the value, lengths as eight bytes,
    /// big-endian.
    pub sha256: Digest,
}

/// Reads the contents of all tables, in the order of their names.
///
/// # Errors
/// redb's.
pub(crate) fn read(database: &impl ReadableDatabase) -> Result<Vec<TableContents>, redb::Error> {
    let txn = database.begin_read()?;
    let mut all = Vec::new();
    for handle in txn.list_tables()? {
        let name = handle.name().to_owned();
        let (table, _shape) =
            opened(|| txn.open_table(TableDefinition::<AnyKey, AnyValue>::new(&name)).map_err(Box::new))?;
        let mut rows = Rows::default();
        for row in table.iter()? {
            let (key, value) = row?;
            rows.add(key.value(), value.value());
        }
        all.push(rows.finish(name));
    }
    for handle in txn.list_multimap_tables()? {
        let name = handle.name().to_owned();
        let (table, _shape) = opened(|| {
            txn.open_multimap_table(MultimapTableDefinition::<AnyKey, AnyValue>::new(&name)).map_err(Box::new)
        })?;
        let mut rows = Rows::default();
        for row in table.iter()? {
            let (key, values) = row?;
            for value in values {
                rows.add(key.value(), value?.value());
            }
        }
        all.push(rows.finish(name));
    }
    all.sort_by(|one, other| one.name.cmp(&other.name));
    Ok(all)
}

/// Describes the first table that differs, for people; `None` when all are the same. `[here, there]` names the two
/// sides.
#[must_use]
pub(crate) fn difference(one: &[TableContents], other: &[TableContents], [here, there]: [&str; 2]) -> Option<String> {
    let names = one.iter().chain(other).map(|table| table.name.as_str());
    names.into_iter().find_map(|name| match (find(one, name), find(other, name)) {
        (Some(one), Some(other)) if one == other => None,
        (Some(one), Some(other)) if one.rows != other.rows => {
            Some(format!("table `{name}` has {} rows {here} and {} {there}", one.rows, other.rows))
        }
        (Some(one), Some(_)) => Some(format!("table `{name}` has {} rows {here} and {there}, not the same", one.rows)),
        (Some(_), None) => Some(format!("table `{name}` is {here} and not {there}")),
        (None, _) => Some(format!("table `{name}` is {there} and not {here}")),
    })
}

fn find<'t>(tables: &'t [TableContents], name: &str) -> Option<&'t TableContents> {
    tables.iter().find(|table| table.name == name)
}

/// Running digest over the rows of a table.
#[derive(Default)]
struct Rows {
    rows: u64,
    bytes: u64,
    hash: Sha256,
}

impl Rows {
    fn add(&mut self, key: &[u8], value: &[u8]) {
        self.rows += 1;
        for part in [key, value] {
            let len = part.len() as u64;
            self.bytes += len;
            self.hash.update(len.to_be_bytes());
            self.hash.update(part);
        }
    }

    fn finish(self, name: String) -> TableContents {
        TableContents { name, rows: self.rows, bytes: self.bytes, sha256: Digest(self.hash.finalize().into()) }
    }
}

/// Names and widths of the types of the table that this thread reads.
struct Shape {
    key: TypeName,
    value: TypeName,
    key_width: Option<usize>,
    value_width: Option<usize>,
}

impl Shape {
    /// Takes the names or a width from redb's refusal to open the table.
    fn learn(&mut self, error: &TableError) {
        match error {
            TableError::TableTypeMismatch { key, value, .. } => {
                (self.key, self.value) = (key.clone(), value.clone());
            }
            // Types of one name have one width.
            TableError::TypeDefinitionChanged { name, width, .. } => {
                if self.key == *name {
                    self.key_width = *width;
                }
                if self.value == *name {
                    self.value_width = *width;
                }
            }
            _ => {}
        }
    }
}

thread_local! {
    static SHAPE: RefCell<Option<Shape>> = const { RefCell::new(None) };
}

/// Guard: while it lives, [`AnyKey`] and [`AnyValue`] have the names and widths of one table.
struct Shaped;

impl Drop for Shaped {
    fn drop(&mut self) {
        SHAPE.set(None);
    }
}

/// Opens a table, learning its types from what redb refuses: first both names, then each width.
fn opened<T>(open: impl Fn() -> Result<T, Box<TableError>>) -> Result<(T, Shaped), redb::Error> {
    let unknown = TypeName::new("keyfleet-litestream/unknown");
    SHAPE.set(Some(Shape { key: unknown.clone(), value: unknown, key_width: None, value_width: None }));
    let shaped = Shaped;
    let mut last = None;
    for _ in 0..4 {
        match open().map_err(|error| *error) {
            Ok(table) => return Ok((table, shaped)),
            Err(error) => {
                SHAPE.with_borrow_mut(|shape| {
                    if let Some(shape) = shape {
                        shape.learn(&error);
                    }
                });
                last = Some(error);
            }
        }
    }
    Err(last.expect("four tries failed").into())
}

/// Key type that takes any bytes.
#[derive(Debug)]
struct AnyKey;
/// Value type that takes any bytes.
#[derive(Debug)]
struct AnyValue;

fn shape<T>(read: impl FnOnce(&Shape) -> T) -> T {
    SHAPE.with_borrow(|shape| read(shape.as_ref().expect("a table is read while its shape is set")))
}

macro_rules! any {
    ($name:ident, $type_name:ident, $width:ident) => {
        impl Value for $name {
            type SelfType<'a> = &'a [u8];
            type AsBytes<'a> = &'a [u8];

            fn fixed_width() -> Option<usize> {
                shape(|shape| shape.$width)
            }

            fn from_bytes<'a>(data: &'a [u8]) -> &'a [u8]
            where
                Self: 'a,
            {
                data
            }

            fn as_bytes<'a, 'b: 'a>(value: &'a &'b [u8]) -> &'a [u8]
            where
                Self: 'b,
            {
                value
            }

            fn type_name() -> TypeName {
                shape(|shape| shape.$type_name.clone())
            }
        }

        impl Key for $name {
            fn compare(one: &[u8], other: &[u8]) -> Ordering {
                one.cmp(other)
            }
        }
    };
}

any!(AnyKey, key, key_width);
any!(AnyValue, value, value_width);

#[cfg(test)]
mod tests {
    use super::*;

    const WORDS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("words");
    const NUMBERS: TableDefinition<'_, u64, (u32, &str)> = TableDefinition::new("numbers");
    const PAIRS: TableDefinition<'_, (u8, [u8; 16]), u64> = TableDefinition::new("pairs");
    const SAME: TableDefinition<'_, u32, u32> = TableDefinition::new("same");
    const MANY: MultimapTableDefinition<'_, &str, u64> = MultimapTableDefinition::new("many");

    fn filled(change: impl FnOnce(&redb::WriteTransaction)) -> Vec<TableContents> {
        let folder = tempfile::tempdir().unwrap();
        let database = redb::Database::create(folder.path().join("x.redb")).unwrap();
        let txn = database.begin_write().unwrap();
        for at in 0..300_u64 {
            let text = format!("row {at}");
            txn.open_table(WORDS).unwrap().insert(text.as_str(), text.as_bytes()).unwrap();
            txn.open_table(NUMBERS).unwrap().insert(at, (7, text.as_str())).unwrap();
            txn.open_table(PAIRS).unwrap().insert((1, [u8::try_from(at % 256).unwrap(); 16]), at).unwrap();
            txn.open_table(SAME).unwrap().insert(u32::try_from(at).unwrap(), 1).unwrap();
            txn.open_multimap_table(MANY).unwrap().insert("key", at).unwrap();
        }
        change(&txn);
        txn.commit().unwrap();
        read(&database).unwrap()
    }

    #[test]
    fn tables_of_every_shape_are_read_without_their_types() {
        let tables = filled(|_| {});
        let rows: Vec<(&str, u64)> = tables.iter().map(|table| (table.name.as_str(), table.rows)).collect();
        assert_eq!(rows, [("many", 300), ("numbers", 300), ("pairs", 256), ("same", 300), ("words", 300)]);
        assert_eq!(difference(&tables, &filled(|_| {}), ["here", "there"]), None, "the same rows differ");
        let same = tables.iter().find(|table| table.name == "same").unwrap();
        assert_eq!(same.bytes, 300 * 8, "a row of two u32 has eight bytes");
    }

    #[test]
    fn a_difference_names_the_table_of_a_changed_row() {
        let before = filled(|_| {});
        let changed = |change: fn(&redb::WriteTransaction)| {
            difference(&before, &filled(change), ["here", "there"]).expect("a change passed for the same")
        };
        let said = changed(|txn| drop(txn.open_table(SAME).unwrap().insert(299, 2).unwrap()));
        assert!(said.contains("`same`") && said.contains("not the same"), "{said}");
        let said = changed(|txn| assert!(txn.open_multimap_table(MANY).unwrap().remove("key", 5).unwrap()));
        assert!(said.contains("`many` has 300 rows here and 299 there"), "{said}");
        let said = changed(|txn| assert!(txn.delete_table(WORDS).unwrap()));
        assert!(said.contains("`words` is here and not there"), "{said}");
    }
}
