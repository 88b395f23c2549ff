use super::*;

fn windows(text: &str) -> Windows {
    text.parse().unwrap()
}

fn time(text: &str) -> Timestamp {
    format!("{text}:00Z").parse().unwrap()
}

fn opens(text: &str, now: &str) -> String {
    next_open(&windows(text), time(now)).unwrap().to_string().replace(":00Z", "")
}

fn closes(text: &str, now: &str) -> Option<String> {
    Some(next_close(&windows(text), time(now))?.to_string().replace(":00Z", ""))
}

#[test]
fn windows_are_read_and_written_as_one_text() {
    let text = "Sat,Sun 02:00-05:00 Europe/Berlin; 22:00-06:00 UTC";
    assert_eq!(windows(text).to_string(), text);
    let json = serde_json::to_string(&windows(text)).unwrap();
    assert_eq!(serde_json::from_str::<Windows>(&json).unwrap(), windows(text));
    assert!("".parse::<Windows>().is_err());
    assert!("02:00-05:00 UTC;".parse::<Windows>().is_err());
    let many = vec!["02:00-05:00 UTC"; MAX_WINDOWS + 1].join(";");
    let text = "there are 21 maintenance windows; at most 20 are allowed";
    assert_eq!(many.parse::<Windows>().unwrap_err().to_string(), text);
}

#[test]
fn window_is_open_from_its_beginning_until_just_before_its_end() {
    let night = windows("22:00-06:00 UTC");
    for (now, expected) in [
        ("2026-11-29T21:59", false),
        ("2026-11-29T22:00", true),
        ("2026-11-30T00:00", true),
        ("2026-11-30T05:59", true),
        ("2026-11-30T06:00", false),
    ] {
        assert_eq!(is_open(&night, time(now)), expected, "{now}");
    }
}

#[test]
fn next_opening_is_now_or_later() {
    assert_eq!(opens("22:00-06:00 UTC", "2026-11-29T12:00"), "2026-11-29T22:00");
    assert_eq!(opens("22:00-06:00 UTC", "2026-11-30T03:00"), "2026-11-30T03:00");
    // 2026-11-29 is a Sunday.
    assert_eq!(opens("Sat 02:00-05:00 UTC", "2026-11-29T12:00"), "2026-12-05T02:00");
    assert_eq!(opens("Sun 02:00-05:00 UTC", "2026-11-29T05:00"), "2026-12-06T02:00");
    let several = "Sat 02:00-05:00 UTC; Wed 10:00-11:00 UTC";
    assert_eq!(opens(several, "2026-11-29T12:00"), "2026-12-02T10:00");
    assert_eq!(opens(several, "2026-12-02T11:00"), "2026-12-05T02:00");
}

#[test]
fn windows_that_touch_or_overlap_count_as_one() {
    assert_eq!(closes("02:00-05:00 UTC", "2026-11-29T03:00").unwrap(), "2026-11-29T05:00");
    assert_eq!(closes("02:00-05:00 UTC", "2026-11-29T05:00").unwrap(), "2026-11-29T05:00");
    let meeting = "05:00-07:00 UTC; 02:00-05:00 UTC; 06:30-08:00 UTC";
    assert_eq!(closes(meeting, "2026-11-29T03:00").unwrap(), "2026-11-29T08:00");
    assert_eq!(closes("00:00-24:00 UTC", "2026-11-29T03:00"), None);
    let week = "Mon-Fri 00:00-24:00 UTC";
    assert_eq!(closes(week, "2026-11-30T03:00").unwrap(), "2026-12-05T00:00");
    assert_eq!(closes("Tue-Mon 00:00-24:00 Europe/Berlin", "2026-11-30T03:00"), None);
}

#[test]
fn window_in_the_skipped_hour_opens_at_the_jump() {
    let text = "02:15-02:45 Europe/Berlin";
    assert_eq!(opens(text, "2027-03-27T12:00"), "2027-03-28T01:00");
    assert_eq!(closes(text, "2027-03-28T01:00").unwrap(), "2027-03-28T01:30");
    assert_eq!(opens(text, "2027-03-28T01:30"), "2027-03-29T00:15");
}

#[test]
fn repeated_hour_opens_a_window_once() {
    let text = "02:15-02:45 Europe/Berlin";
    assert_eq!(opens(text, "2027-10-30T12:00"), "2027-10-31T00:15");
    assert!(is_open(&windows(text), time("2027-10-31T00:30")));
    // At 01:30 UTC, the clocks show 02:30 for the second time.
    assert!(!is_open(&windows(text), time("2027-10-31T01:30")));
    assert_eq!(opens(text, "2027-10-31T00:45"), "2027-11-01T01:15");
    // If a window contains the repeated hour, it does not close at the repetition.
    let long = windows("01:00-05:00 Europe/Berlin");
    for minute in 0..5 * 60 {
        let now = time("2027-10-30T23:00") + Duration::from_secs(60 * minute);
        assert!(is_open(&long, now), "{now}");
    }
}

#[test]
fn time_in_open_windows_adds_up() {
    let hours = |count: u64| Duration::from_secs(count * 3600);
    let on = |text: &str, start: &str, count: u64| {
        open_for(&windows(text), time(start), hours(count)).to_string().replace(":00Z", "")
    };
    let night = "22:00-00:00 UTC";
    assert_eq!(on(night, "2026-11-29T12:00", 0), "2026-11-29T22:00");
    assert_eq!(on(night, "2026-11-29T12:00", 1), "2026-11-29T23:00");
    assert_eq!(on(night, "2026-11-29T23:00", 1), "2026-11-30T00:00");
    assert_eq!(on(night, "2026-11-29T23:00", 2), "2026-11-30T23:00");
    assert_eq!(on(night, "2026-11-29T23:00", 5), "2026-12-02T00:00");
    assert_eq!(on("00:00-24:00 UTC", "2026-11-29T12:00", 100), "2026-12-03T16:00");
}

#[test]
fn functions_accept_the_first_and_the_last_timestamp() {
    let night = windows("Sun 22:00-06:00 America/New_York");
    for now in [Timestamp::MAX, Timestamp::MIN] {
        is_open(&night, now);
        next_open(&night, now);
        next_close(&night, now);
        open_for(&night, now, Duration::from_secs(3600));
    }
}

#[test]
fn functions_agree_around_all_changes_of_the_clocks() {
    for zone in ["Europe/Berlin", "America/New_York", "Australia/Lord_Howe", "Asia/Beirut"] {
        for hours in ["02:15-02:45", "00:30-02:10", "23:50-00:20", "01:30-03:30"] {
            let text = format!("Sat,Sun {hours} {zone}");
            let windows = windows(&text);
            // On the weekend after each of these Fridays, the clocks of one of the zones change.
            for friday in
                ["2026-03-06", "2026-03-27", "2026-04-03", "2026-10-02", "2026-10-23", "2026-10-30"]
            {
                check(&windows, time(&format!("{friday}T12:00")));
            }
        }
    }
}

fn check(windows: &Windows, start: Timestamp) {
    let minute = Duration::from_secs(60);
    let mut openings = 0;
    let mut was_open = false;
    for n in 0..3 * 24 * 60 {
        let now = start + minute * n;
        let open = is_open(windows, now);
        openings += u32::from(open && !was_open);
        was_open = open;
        let (opens, closes) = (next_open(windows, now).unwrap(), next_close(windows, now).unwrap());
        assert_eq!(opens == now, open, "{windows} {now}");
        assert_eq!(closes > now, open, "{windows} {now}");
        assert!(is_open(windows, opens) && !is_open(windows, closes), "{windows} {now}");
        if !open {
            assert!(!is_open(windows, opens - minute), "{windows} {now}");
        }
    }
    // The window opens on Saturday and on Sunday.
    assert_eq!(openings, 2, "{windows} {start}");
}
