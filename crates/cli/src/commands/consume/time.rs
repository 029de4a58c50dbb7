//! Times of the UTC calendar, to and from milliseconds since 1970.

/// Milliseconds, as a number or as `YYYY-MM-DDTHH:MM:SS[.mmm]Z`.
pub fn parse(text: &str) -> Result<i64, String> {
    if let Ok(number) = text.parse::<i64>() {
        return Ok(number);
    }
    calendar(text)
        .ok_or_else(|| format!("{text:?} is no time; write milliseconds since 1970, or as in 2026-01-31T12:00:00Z"))
}

fn calendar(text: &str) -> Option<i64> {
    let (date, time) = text.strip_suffix('Z')?.split_once('T')?;
    let mut date = date.splitn(3, '-').map(str::parse::<i64>);
    let (year, month, day) = (date.next()?.ok()?, date.next()?.ok()?, date.next()?.ok()?);
    let (time, fraction) = time.split_once('.').unwrap_or((time, "0"));
    let mut time = time.splitn(3, ':').map(str::parse::<i64>);
    let (hour, minute, second) = (time.next()?.ok()?, time.next()?.ok()?, time.next()?.ok()?);
    let digits_only = fraction.len() <= 3 && fraction.bytes().all(|digit| digit.is_ascii_digit());
    let millis = format!("{fraction:0<3}").parse::<i64>().ok().filter(|_| digits_only)?;
    let valid = (1..=9999).contains(&year)
        && (1..=12).contains(&month)
        && (1..=31).contains(&day)
        && (0..24).contains(&hour)
        && (0..60).contains(&minute)
        && (0..60).contains(&second);
    let days = days_from_civil(year, month, day);
    // A day that the month does not have would come back as another.
    let exists = valid && civil_from_days(days) == (year, month, day);
    exists.then_some(((days * 24 + hour) * 60 + minute) * 60_000 + second * 1000 + millis)
}

/// As [`parse`] reads it, with milliseconds.
pub fn show(ms: i64) -> String {
    let (days, of_day) = (ms.div_euclid(86_400_000), ms.rem_euclid(86_400_000));
    let (year, month, day) = civil_from_days(days);
    let (seconds, millis) = (of_day / 1000, of_day % 1000);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}

/// Days since 1970-01-01. (Howard Hinnant, "chrono-Compatible Low-Level Date Algorithms".)
fn days_from_civil(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468
}

fn civil_from_days(days: i64) -> (i64, i64, i64) {
    let days = days + 719_468;
    let era = days.div_euclid(146_097);
    let of_era = days.rem_euclid(146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let from_march = (5 * of_year + 2) / 153;
    let day = of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    (year + era * 400 + i64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_round_trip_and_days_that_do_not_exist_are_refused() {
        for (text, ms) in [
            ("1970-01-01T00:00:00.000Z", 0),
            ("2000-02-29T23:59:59.999Z", 951_868_799_999),
            ("2013-01-01T10:00:00.000Z", 1_357_034_400_000),
        ] {
            assert_eq!(parse(text), Ok(ms));
            assert_eq!(show(ms), text);
        }
        assert_eq!(parse("2013-01-01T10:00:00Z"), Ok(1_357_034_400_000));
        assert_eq!(parse("1357034400000"), Ok(1_357_034_400_000));
        for bad in ["2013-02-29T00:00:00Z", "2013-13-01T00:00:00Z", "2013-01-01", "2013-01-01T24:00:00Z", "x"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
