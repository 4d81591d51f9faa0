//! What is held of any value of a row, and of any directive ([`crate::fuzz`]).

use super::{Dialect, guard::Guard, wire};

/// Two values with a zero in between, as literals of SQL; both also taken for what a server says.
pub(crate) fn sql(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let (first, second) = text.split_once('\0').unwrap_or((&text, ""));
    wire::fuzz::literals(Dialect::Mysql, first, second);
    wire::fuzz::literals(Dialect::Postgresql, first, second);
    wire::fuzz::texts(data, &text);
    let _ = Guard::parse(&text);
}
