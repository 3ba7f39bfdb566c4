//! `strftime` for templates that print today's date; times are UTC.
use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

const DAYS: [&str; 7] = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"];
const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];

/// `datetime.strftime(format)` in the C locale; an unknown directive is printed as it stands.
pub(super) fn strftime(format: &str, time: SystemTime) -> String {
    let seconds = match time.duration_since(UNIX_EPOCH) {
        Ok(since) => i64::try_from(since.as_secs()).unwrap_or(i64::MAX / 2),
        Err(before) => -i64::try_from(before.duration().as_secs()).unwrap_or(i64::MAX / 2),
    };
    let (days, second) = (seconds.div_euclid(86400), seconds.rem_euclid(86400));
    let (year, month, day) = civil(days);
    let weekday = (days + 3).rem_euclid(7) as usize; // 0 = Monday
    let year_day = days - day_number(year, 1, 1);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    let twelve = if hour % 12 == 0 { 12 } else { hour % 12 };
    let (day_name, month_name) = (DAYS[weekday], MONTHS[month as usize - 1]);

    let mut out = String::new();
    let mut chars = format.chars();
    while let Some(c) = chars.next() {
        if c != '%' {
            out.push(c);
            continue;
        }
        let mut directive = chars.next();
        // "%-d" and "%#d" leave the padding out.
        let plain = matches!(directive, Some('-' | '#'));
        if plain {
            directive = chars.next();
        }
        let mut padded = |value: i64, width: usize| {
            let width = if plain { 0 } else { width };
            let _ = write!(out, "{value:0width$}");
        };
        match directive {
            Some('Y') => padded(year, 0),
            Some('y') => padded(year.rem_euclid(100), 2),
            Some('m') => padded(month, 2),
            Some('d') => padded(day, 2),
            Some('H') => padded(hour, 2),
            Some('I') => padded(twelve, 2),
            Some('M') => padded(minute, 2),
            Some('S') => padded(second, 2),
            Some('f') => padded(0, 6),
            Some('j') => padded(year_day + 1, 3),
            Some('u') => padded(weekday as i64 + 1, 0),
            Some('w') => padded((weekday as i64 + 1) % 7, 0),
            Some('U') => padded((year_day + 7 - (weekday as i64 + 1) % 7) / 7, 2),
            Some('W') => padded((year_day + 7 - weekday as i64) / 7, 2),
            Some('e') => {
                let _ = write!(out, "{day:2}");
            }
            Some('s') => padded(seconds, 0),
            Some('A') => out.push_str(day_name),
            Some('a') => out.push_str(&day_name[..3]),
            Some('B') => out.push_str(month_name),
            Some('b' | 'h') => out.push_str(&month_name[..3]),
            Some('p') => out.push_str(if hour < 12 { "AM" } else { "PM" }),
            Some('F') => {
                let _ = write!(out, "{year}-{month:02}-{day:02}");
            }
            Some('D' | 'x') => {
                let _ = write!(out, "{month:02}/{day:02}/{:02}", year.rem_euclid(100));
            }
            Some('T' | 'X') => {
                let _ = write!(out, "{hour:02}:{minute:02}:{second:02}");
            }
            Some('R') => {
                let _ = write!(out, "{hour:02}:{minute:02}");
            }
            Some('c') => {
                let (day_name, month_name) = (&day_name[..3], &month_name[..3]);
                let _ = write!(out, "{day_name} {month_name} {day:2} {hour:02}:{minute:02}:{second:02} {year}");
            }
            // A naive time has no zone.
            Some('z' | 'Z') => {}
            Some('n') => out.push('\n'),
            Some('t') => out.push('\t'),
            Some('%') => out.push('%'),
            other => {
                out.push('%');
                out.extend(other);
            }
        }
    }
    out
}

/// Days since 1970-01-01 to (year, month, day) in the Gregorian calendar.
fn civil(days: i64) -> (i64, i64, i64) {
    // Years that start in March put the leap day last; an era is 400 of them.
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let m = (5 * day_of_year + 2) / 153;
    let month = if m < 10 { m + 3 } else { m - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day_of_year - (153 * m + 2) / 5 + 1)
}

fn day_number(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let year_of_era = year.rem_euclid(400);
    let day_of_year = (153 * (month + if month > 2 { -3 } else { 9 }) + 2) / 5 + day - 1;
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}
