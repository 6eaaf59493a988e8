//! Tables of cells that hold or do not, in aligned columns.

use std::fmt::Write;

use crate::lab::progress::Paint;

/// A cell, and whether it holds.
#[derive(Debug, Clone)]
pub(super) struct Cell {
    text: String,
    /// `None` for what is neither good nor bad.
    good: Option<bool>,
}

impl Cell {
    pub(super) fn plain(text: &str) -> Self {
        Self { text: text.to_owned(), good: None }
    }

    pub(super) fn good(text: &str) -> Self {
        Self { text: text.to_owned(), good: Some(true) }
    }

    pub(super) fn bad(text: &str) -> Self {
        Self { text: text.to_owned(), good: Some(false) }
    }

    /// Good or bad.
    pub(super) fn judged(text: &str, good: bool) -> Self {
        Self { text: text.to_owned(), good: Some(good) }
    }

    /// How many of how many worked; `-`, and neither good nor bad, where the pod has no such family.
    pub(super) fn count(count: Option<(usize, usize)>) -> Self {
        match count {
            None => Self::plain("-"),
            // Not one was tried, which is no success either.
            Some((_, 0)) => Self::bad("0"),
            Some((1, 1)) => Self::good("ok"),
            Some((good, all)) if good == all => Self::good(&format!("{good}/{all}")),
            Some((good, all)) => Self::bad(&format!("{good}/{all}")),
        }
    }

    /// As it is drawn, before it is coloured: what is wrong is marked without colours too.
    fn shown(&self) -> String {
        if self.good == Some(false) { format!("{} ✗", self.text) } else { self.text.clone() }
    }
}

/// Rows in sections, each with a heading of its own, drawn in aligned columns.
#[derive(Debug, Default)]
pub(super) struct Table(Vec<Vec<Vec<Cell>>>);

impl Table {
    pub(super) fn heading(&mut self, names: &[&str]) {
        self.0.push(vec![names.iter().map(|name| Cell::plain(name)).collect()]);
    }

    pub(super) fn row(&mut self, cells: Vec<Cell>) {
        if let Some(section) = self.0.last_mut() {
            section.push(cells);
        }
    }

    /// Columns the table takes, with so many between two of its own.
    pub(super) fn width(&self, gap: usize) -> usize {
        let of = |section: &Vec<Vec<Cell>>| {
            let widths = widths(section);
            1 + widths.iter().sum::<usize>() + gap * widths.len().saturating_sub(1)
        };
        self.0.iter().map(of).max().unwrap_or(0)
    }

    pub(super) fn draw(&self, gap: usize, paint: Paint) -> String {
        let mut text = String::new();
        for section in &self.0 {
            let widths = widths(section);
            for (index, row) in section.iter().enumerate() {
                let mut line = " ".to_owned();
                for (cell, width) in row.iter().zip(&widths) {
                    let plain = cell.shown();
                    let padding = " ".repeat(width.saturating_sub(plain.chars().count()) + gap);
                    let shown = match (index, cell.good) {
                        (0, _) => paint.bold(&plain),
                        (_, Some(true)) => paint.green(&plain),
                        (_, Some(false)) => paint.red(&plain),
                        (_, None) => plain,
                    };
                    let _ = write!(line, "{shown}{padding}");
                }
                let _ = writeln!(text, "{}", line.trim_end());
            }
            text.push('\n');
        }
        text
    }
}

/// The width of each column of a section.
fn widths(section: &[Vec<Cell>]) -> Vec<usize> {
    let columns = section.iter().map(Vec::len).max().unwrap_or(0);
    let cells = |column: usize| section.iter().filter_map(move |row| row.get(column));
    (0..columns)
        .map(|column| cells(column).map(|cell| cell.shown().chars().count()).max().unwrap_or(0))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_family_a_pod_lacks_is_never_a_success() {
        for (count, shown, good) in [
            (None, "-", None),
            (Some((1, 1)), "ok", Some(true)),
            (Some((3, 3)), "3/3", Some(true)),
            (Some((2, 3)), "2/3 ✗", Some(false)),
            (Some((0, 0)), "0 ✗", Some(false)),
        ] {
            let cell = Cell::count(count);
            assert_eq!((cell.shown().as_str(), cell.good), (shown, good), "{count:?}");
        }
    }
}
