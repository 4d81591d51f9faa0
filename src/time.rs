//! UTC stamps. The clock itself is read in one place, and passed on.

use std::time::{SystemTime, UNIX_EPOCH};

/// Seconds since the epoch, now.
#[must_use]
pub fn now() -> u64 {
    #[expect(clippy::disallowed_methods, reason = "the one place that reads the clock")]
    let now = SystemTime::now();
    now.duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Year, month, day, hour, minute, second of `seconds` since the epoch, in the proleptic Gregorian calendar.
fn civil(seconds: u64) -> (u64, u64, u64, u64, u64, u64) {
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Count in eras of 400 years that begin on 1 March, so that the leap day is the last day of a year.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day, rest / 3600, rest / 60 % 60, rest % 60)
}

/// `2026-11-22 01:58:04Z`.
#[must_use]
pub fn stamp(seconds: u64) -> String {
    let (y, mo, d, h, mi, s) = civil(seconds);
    format!("{y:04}-{mo:02}-{d:02} {h:02}:{mi:02}:{s:02}Z")
}

/// `01:58:04Z`.
#[must_use]
pub fn clock(seconds: u64) -> String {
    let (_, _, _, h, mi, s) = civil(seconds);
    format!("{h:02}:{mi:02}:{s:02}Z")
}

/// `20261122T015804Z`, the name of a run.
#[must_use]
pub fn id(seconds: u64) -> String {
    let (y, mo, d, h, mi, s) = civil(seconds);
    format!("{y:04}{mo:02}{d:02}T{h:02}{mi:02}{s:02}Z")
}

/// The seconds since the epoch that [`id`] named; `None` if it is no such name.
#[must_use]
pub fn of_id(id: &str) -> Option<u64> {
    let number = |from: usize, to: usize| id.get(from..to)?.parse::<u64>().ok();
    let (year, month, day) = (number(0, 4)?, number(4, 6)?, number(6, 8)?);
    let (hour, minute, second) = (number(9, 11)?, number(11, 13)?, number(13, 15)?);
    if year < 1970 || !(1..=12).contains(&month) || id.get(8..9)? != "T" {
        return None;
    }
    // The inverse of `civil`: years begin on 1 March.
    let year = if month <= 2 { year - 1 } else { year };
    let month_from_march = if month > 2 { month - 3 } else { month + 9 };
    let day_of_year = (153 * month_from_march + 2) / 5 + day.checked_sub(1)?;
    let day_of_era = year % 400 * 365 + year % 400 / 4 - year % 400 / 100 + day_of_year;
    let days = (year / 400 * 146_097 + day_of_era).checked_sub(719_468)?;
    Some(days * 86_400 + hour * 3600 + minute * 60 + second)
}

/// A length of time for people: `0.3 s`, `78 s`, `2 min 19 s`, `1 h 17 min`.
#[must_use]
pub fn span(milliseconds: u128) -> String {
    let seconds = milliseconds / 1000;
    match seconds {
        0..10 => format!("{seconds}.{} s", milliseconds % 1000 / 100),
        10..120 => format!("{seconds} s"),
        120..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

/// Lets time pass, where nothing tells of what is waited for: a server that is to begin to answer.
pub fn pass(span: std::time::Duration) {
    #[expect(clippy::disallowed_methods, reason = "the one place that does; its callers look again and have a limit")]
    std::thread::sleep(span);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn stamps_agree_with_date() {
        for (seconds, wanted) in [
            (0, "1970-01-01 00:00:00Z"),
            (951_782_399, "2000-02-28 23:59:59Z"),
            (951_782_400, "2000-02-29 00:00:00Z"),
            (1_795_312_684, "2026-11-22 01:58:04Z"),
            (4_107_542_400, "2100-03-01 00:00:00Z"),
        ] {
            assert_eq!(stamp(seconds), wanted);
        }
        assert_eq!(id(1_795_312_684), "20261122T015804Z");
        assert_eq!(clock(1_795_312_684), "01:58:04Z");
        for seconds in [0, 951_782_399, 951_782_400, 1_795_312_684, 4_107_542_400] {
            assert_eq!(of_id(&id(seconds)), Some(seconds));
        }
        assert_eq!(["", "latest", "20261399T000000", "2026é122T015804Z"].map(of_id), [None; 4]);
    }

    #[test]
    fn spans_are_short() {
        assert_eq!([350, 78_000, 139_000, 4_620_000].map(span), ["0.3 s", "78 s", "2 min 19 s", "1 h 17 min"]);
    }
}
