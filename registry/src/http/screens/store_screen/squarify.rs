//! Divides a rectangle among numbers, so that the parts are nearly squares (Bruls, Huizing and van
//! Wijk, "Squarified treemaps").

/// A rectangle of a drawing.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rect {
    /// The left edge.
    pub x: f64,
    /// The upper edge.
    pub y: f64,
    /// The width.
    pub width: f64,
    /// The height.
    pub height: f64,
}

/// One part of `whole` for each weight, in the order of the weights. The areas are proportional to
/// the weights. The parts are nearest to squares if the weights decrease.
pub fn squarify(weights: &[f64], whole: Rect) -> Vec<Rect> {
    let total: f64 = weights.iter().sum();
    if total <= 0.0 {
        return weights.iter().map(|_| Rect { width: 0.0, height: 0.0, ..whole }).collect();
    }
    let scale = whole.width * whole.height / total;
    let areas: Vec<f64> = weights.iter().map(|weight| weight * scale).collect();
    let (mut parts, mut rest, mut left) = (Vec::with_capacity(areas.len()), whole, &areas[..]);
    while !left.is_empty() {
        let side = rest.width.min(rest.height);
        let mut taken = 1;
        while taken < left.len() && worst(&left[..=taken], side) <= worst(&left[..taken], side) {
            taken += 1;
        }
        let (row, after) = left.split_at(taken);
        rest = lay_row(row, rest, &mut parts);
        left = after;
    }
    parts
}

/// The largest ratio of a part's longer side to its shorter side, if these areas form one row along
/// `side`.
fn worst(areas: &[f64], side: f64) -> f64 {
    let sum: f64 = areas.iter().sum();
    let ratio = |area: &f64| {
        let across = side * side * area / (sum * sum);
        across.max(1.0 / across)
    };
    areas.iter().map(ratio).fold(0.0, f64::max)
}

/// Adds a row of parts along the shorter side of `rest`. Returns the part of `rest` that the row
/// leaves free.
fn lay_row(areas: &[f64], rest: Rect, parts: &mut Vec<Rect>) -> Rect {
    let sum: f64 = areas.iter().sum();
    let is_column = rest.width >= rest.height;
    let side = if is_column { rest.height } else { rest.width };
    let depth = if side > 0.0 { sum / side } else { 0.0 };
    let mut at = 0.0;
    for area in areas {
        let length = if depth > 0.0 { area / depth } else { 0.0 };
        parts.push(if is_column {
            Rect { x: rest.x, y: rest.y + at, width: depth, height: length }
        } else {
            Rect { x: rest.x + at, y: rest.y, width: length, height: depth }
        });
        at += length;
    }
    if is_column {
        Rect { x: rest.x + depth, width: (rest.width - depth).max(0.0), ..rest }
    } else {
        Rect { y: rest.y + depth, height: (rest.height - depth).max(0.0), ..rest }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WHOLE: Rect = Rect { x: 10.0, y: 20.0, width: 1200.0, height: 300.0 };

    fn overlap(one: &Rect, other: &Rect) -> f64 {
        let along = |a: f64, length: f64, b: f64, other: f64| {
            ((a + length).min(b + other) - a.max(b)).max(0.0)
        };
        along(one.x, one.width, other.x, other.width)
            * along(one.y, one.height, other.y, other.height)
    }

    #[test]
    fn areas_are_proportional_and_parts_are_inside_and_do_not_overlap() {
        for count in 1..60_u32 {
            let weights: Vec<f64> = (1..=count).map(|n| 1e9 / f64::from(n * n)).collect();
            let parts = squarify(&weights, WHOLE);
            let total: f64 = weights.iter().sum();
            for (at, (part, weight)) in parts.iter().zip(&weights).enumerate() {
                let area = part.width * part.height;
                let expected = WHOLE.width * WHOLE.height * weight / total;
                assert!((area - expected).abs() < 1e-3, "{count}: {area} is not {expected}");
                assert!(part.x >= 10.0 - 1e-6 && part.x + part.width <= 1210.0 + 1e-6, "{part:?}");
                assert!(part.y >= 20.0 - 1e-6 && part.y + part.height <= 320.0 + 1e-6, "{part:?}");
                for other in &parts[at + 1..] {
                    assert!(overlap(part, other) < 1e-3, "{part:?} covers {other:?}");
                }
            }
        }
    }

    #[test]
    fn equal_weights_give_squares_and_no_weights_give_no_parts() {
        let parts = squarify(&[1.0; 4], WHOLE);
        assert!(parts.iter().all(|part| (part.width - part.height).abs() < 1e-6), "{parts:?}");
        assert_eq!(squarify(&[], WHOLE), []);
        assert!(squarify(&[0.0, 0.0], WHOLE).iter().all(|part| part.width <= 0.0));
        let tiny = squarify(&[1e12, 1.0, 0.0], WHOLE);
        assert!(tiny.iter().all(|part| part.width.is_finite() && part.height.is_finite()));
    }
}
