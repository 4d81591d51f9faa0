//! Every named crash point, then `resume` or `rollback`.

use super::{Case, Tally};

const RESUME: &[&str] = &["resume"];
const ROLLBACK: &[&str] = &["rollback", "--yes"];

/// Kills at each of `points`, looks, and goes both ways from there.
fn both_ways(case: &Case, points: &[usize], tally: &Tally) {
    let name = |point: &usize| format!("{} killed at {point}, {}", case.command[0], case.points[point - 1]);
    tally.each(points, name, |point| {
        let crashed = case.killed_at(*point);
        case.check_crashed(&crashed);
        let other = crashed.copy();
        case.finish(&crashed, RESUME);
        case.finish(&other, ROLLBACK);
    });
}

fn every(case: &Case) -> Vec<usize> {
    (1..=case.points.len()).collect()
}

#[test]
fn an_upgrade_killed_at_any_point() {
    let case = Case::upgrade("mitaka");
    let tally = Tally::default();
    both_ways(&case, &every(&case), &tally);
    tally.end("upgrade to mitaka, each point");
}

#[test]
fn a_rollback_killed_at_any_point() {
    let case = Case::rollback("mitaka");
    let tally = Tally::default();
    both_ways(&case, &every(&case), &tally);
    tally.end("rollback from mitaka, each point");
}
