//! Searches for the fewest steps that still fail.

/// Removes steps from `steps` as long as the remaining steps still fail. Tries to remove halves,
/// then quarters and so on, and finally single steps.
pub fn fewest(steps: &[usize], mut fails: impl FnMut(&[usize]) -> bool) -> Vec<usize> {
    let mut left = steps.to_vec();
    let mut size = left.len().div_ceil(2).max(1);
    loop {
        let mut at = 0;
        // The search begins with the first steps, because the last steps most likely cause the
        // failure.
        while at < left.len() {
            let end = (at + size).min(left.len());
            let tried: Vec<usize> = left[..at].iter().chain(&left[end..]).copied().collect();
            if fails(&tried) {
                left = tried;
            } else {
                at = end;
            }
        }
        if size == 1 {
            return left;
        }
        size = size.div_ceil(2);
    }
}

#[test]
fn shrinking_keeps_the_needed_steps() {
    let steps: Vec<usize> = (1..=60).collect();
    let found = fewest(&steps, |steps| [3, 17, 59].iter().all(|n| steps.contains(n)));
    assert_eq!(found, [3, 17, 59]);
}
