use super::*;

fn period(window: &str, day: &str) -> String {
    let window: Window = window.parse().unwrap();
    match window.period(day.parse().unwrap()) {
        Some((opens, closes)) => format!("{opens} {closes}").replace(":00Z", "Z"),
        None => "-".to_owned(),
    }
}

fn refused(text: &str) -> String {
    text.parse::<Window>().unwrap_err().to_string()
}

#[test]
fn window_is_written_as_it_is_read() {
    for text in
        ["Sat,Sun 02:00-05:00 Europe/Berlin", "22:00-06:00 UTC", "Mon 00:00-24:00 America/New_York"]
    {
        assert_eq!(text.parse::<Window>().unwrap().to_string(), text);
    }
    let other = |text: &str| text.parse::<Window>().unwrap().to_string();
    assert_eq!(other("  sun,SAT   02:00-05:00 europe/berlin"), "Sat,Sun 02:00-05:00 Europe/Berlin");
    assert_eq!(other("Fri-Mon 02:00-05:00 UTC"), "Mon,Fri,Sat,Sun 02:00-05:00 UTC");
    assert_eq!(other("Mon-Sun 02:00-05:00 UTC"), "02:00-05:00 UTC");
}

#[test]
fn refusal_of_a_bad_window_says_what_is_allowed() {
    assert!(refused("02:00-05:00").contains("such as \"Sat,Sun 02:00-05:00 Europe/Berlin\""));
    assert!(refused("").contains("days, hours and a time zone"));
    assert!(refused("Sa 02:00-05:00 UTC").contains("unknown day \"Sa\"; days are Mon"));
    assert!(refused("02:00-05:00 Europe/Bonn").contains("unknown time zone \"Europe/Bonn\""));
    for hours in ["2:00-05:00", "02:00", "02:60-05:00", "02:00-24:01", "02:00-05:00-06:00", "a-b"] {
        assert!(refused(&format!("{hours} UTC")).contains("such as 22:00-06:00"), "{hours}");
    }
    assert!(refused("02:00-02:00 UTC").contains("for the whole day, write 00:00-24:00"));
    assert!(refused("24:00-02:00 UTC").contains("begins at 24:00"));
    assert!(refused(&"x".repeat(10_000)).len() < 250);
}

#[test]
fn window_over_midnight_belongs_to_the_day_on_which_it_opens() {
    let window = "Sat 22:00-06:00 UTC";
    assert_eq!(period(window, "2026-11-28"), "2026-11-28T22:00Z 2026-11-29T06:00Z");
    assert_eq!(period(window, "2026-11-29"), "-");
    assert_eq!(period("00:00-24:00 UTC", "2026-11-29"), "2026-11-29T00:00Z 2026-11-30T00:00Z");
    assert_eq!(period("22:00-00:00 UTC", "2026-11-29"), "2026-11-29T22:00Z 2026-11-30T00:00Z");
}

// On 2027-03-28 in Berlin, 02:00 becomes 03:00. The jump is at 01:00 UTC.
#[test]
fn window_that_begins_in_the_skipped_hour_opens_at_the_jump() {
    let on = |hours: &str| period(&format!("{hours} Europe/Berlin"), "2027-03-28");
    assert_eq!(on("02:30-05:00"), "2027-03-28T01:00Z 2027-03-28T03:00Z");
    assert_eq!(on("02:00-05:00"), "2027-03-28T01:00Z 2027-03-28T03:00Z");
    assert_eq!(on("03:00-05:00"), "2027-03-28T01:00Z 2027-03-28T03:00Z");
    assert_eq!(on("01:00-02:30"), "2027-03-28T00:00Z 2027-03-28T01:00Z");
    assert_eq!(on("01:00-02:00"), "2027-03-28T00:00Z 2027-03-28T01:00Z");
}

#[test]
fn window_inside_the_skipped_hour_opens_at_the_jump_for_its_usual_length() {
    let on = |hours: &str| period(&format!("{hours} Europe/Berlin"), "2027-03-28");
    assert_eq!(on("02:15-02:45"), "2027-03-28T01:00Z 2027-03-28T01:30Z");
    assert_eq!(on("02:00-03:00"), "2027-03-28T01:00Z 2027-03-28T02:00Z");
}

// On 2027-10-31 in Berlin, 03:00 becomes 02:00. The jump is at 01:00 UTC.
#[test]
fn window_opens_once_if_the_clocks_repeat_an_hour() {
    let on = |hours: &str| period(&format!("{hours} Europe/Berlin"), "2027-10-31");
    assert_eq!(on("02:00-05:00"), "2027-10-31T00:00Z 2027-10-31T04:00Z");
    assert_eq!(on("02:15-02:45"), "2027-10-31T00:15Z 2027-10-31T00:45Z");
    assert_eq!(on("01:00-02:30"), "2027-10-30T23:00Z 2027-10-31T00:30Z");
    assert_eq!(on("02:30-03:30"), "2027-10-31T00:30Z 2027-10-31T02:30Z");
    assert_eq!(on("03:00-05:00"), "2027-10-31T02:00Z 2027-10-31T04:00Z");
}

#[test]
fn clock_jumps_of_other_lengths_and_hours_give_the_right_periods() {
    // Lord Howe Island skips half an hour: 02:00 becomes 02:30, at 15:30 UTC of the day before.
    let island = |hours: &str| period(&format!("{hours} Australia/Lord_Howe"), "2026-10-04");
    assert_eq!(island("02:10-02:20"), "2026-10-03T15:30Z 2026-10-03T15:40Z");
    assert_eq!(island("02:10-03:00"), "2026-10-03T15:30Z 2026-10-03T16:00Z");
    // In Beirut, the clocks skip the first hour of the day.
    let city = |hours: &str| period(&format!("{hours} Asia/Beirut"), "2026-03-29");
    assert_eq!(city("00:00-04:00"), "2026-03-28T22:00Z 2026-03-29T01:00Z");
    // In Samoa, the clocks skip a whole day. The window opens at the jump.
    let whole = period("10:00-12:00 Pacific/Apia", "2011-12-30");
    assert_eq!(whole, "2011-12-30T10:00Z 2011-12-30T12:00Z");
}
