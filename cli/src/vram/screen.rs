//! The live screen as it is drawn: GPUs with bars, who holds, who waits. Pure: it may ask nobody.

use memboss_agent_api::v1::{Gpu, Health, Phase, Ram, StatusResponse};
use ratatui::Frame;
use ratatui::layout::{Constraint, Layout};
use ratatui::style::{Color, Style, Stylize as _};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Paragraph, Row, Table};

use crate::cluster::{Picture, Placed};
use crate::output::Colours;
use crate::plain::free;
use crate::show;

/// What is on the screen.
#[derive(Debug, Default)]
pub(super) struct Screen {
    /// What was told last.
    pub(super) picture: Picture,
    /// What it is a picture of.
    pub(super) name: String,
    /// How many leases are above the first one shown.
    pub(super) scrolled: usize,
    /// Why nothing newer is told, if so.
    pub(super) trouble: Option<String>,
}

impl Screen {
    /// Scrolls, as far as there is something to see.
    pub(super) fn scroll(&mut self, lines: isize) {
        self.scrolled = self.scrolled.saturating_add_signed(lines).min(self.picture.leases.len().saturating_sub(1));
    }

    /// Draws all of it.
    pub(super) fn draw(&self, frame: &mut Frame<'_>, colours: Colours) {
        let parts = self.picture.machines.iter().map(|machine| {
            machine.gpus.as_ref().map_or(0, |list| list.gpus.len()) + usize::from(machine.ram.is_some())
        });
        let (waiting, holding): (Vec<_>, Vec<_>) =
            self.picture.leases.iter().partition(|lease| lease.view.phase() == Phase::Waiting);
        let lines = |count: usize| u16::try_from(count).unwrap_or(u16::MAX);
        let queue = lines(waiting.len()).saturating_add(2).min(frame.area().height / 3).max(3);
        let [head, bars, leases, queued, keys] = Layout::vertical([
            Constraint::Length(1),
            Constraint::Length(lines(parts.sum()).saturating_add(1)),
            Constraint::Min(3),
            Constraint::Length(queue),
            Constraint::Length(1),
        ])
        .areas(frame.area());
        frame.render_widget(self.head(waiting.len(), holding.len(), colours), head);
        frame.render_widget(self.bars(bars.width, colours), bars);
        let block = Block::new().borders(Borders::TOP).title(" leases ");
        frame.render_widget(holders(&holding, self.scrolled, colours).block(block), leases);
        frame.render_widget(self.queue(&waiting), queued);
        frame.render_widget(Line::from("q quits, arrows scroll").dim(), keys);
    }

    fn head(&self, waiting: usize, holding: usize, colours: Colours) -> Line<'static> {
        let mut spans = vec![Span::from(self.name.clone()).bold(), format!("  {holding} hold, {waiting} wait").into()];
        let several = self.picture.machines.len() > 1;
        for machine in &self.picture.machines {
            let place = if several { format!(" on {}", machine.node) } else { String::new() };
            for remark in show::remarks(machine, &place) {
                spans.push(Span::from(format!("  {remark}")).style(style(Color::Yellow, colours)));
            }
        }
        if let Some(trouble) = &self.trouble {
            spans.push(Span::from(format!("  {trouble}")).style(style(Color::Red, colours)));
        }
        Line::from(spans)
    }

    fn bars(&self, width: u16, colours: Colours) -> Paragraph<'static> {
        let machines = &self.picture.machines;
        let place = |machine: &StatusResponse| match machines.len() {
            0 | 1 => String::new(),
            _ => format!("{} ", machine.node),
        };
        let gpus = |machine: &StatusResponse| machine.gpus.clone().unwrap_or_default().gpus;
        let name = |place: &str, gpu: &Gpu| format!("{place}{} {}", gpu.index, gpu.model);
        let lengths = machines.iter().flat_map(|machine| {
            let place = place(machine);
            let rams = place.len() + 3;
            gpus(machine).iter().map(|gpu| name(&place, gpu).len()).chain([rams]).collect::<Vec<_>>()
        });
        let names = lengths.max().unwrap_or(3);
        let bar = u64::from(width).saturating_sub(names as u64 + 46).clamp(8, 60);
        let mut lines: Vec<Line<'static>> = Vec::new();
        for machine in machines {
            let place = place(machine);
            let padded = |name: String| format!("{name:<names$} ");
            let gpu_lines = gpus(machine);
            lines.extend(gpu_lines.iter().map(|gpu| gpu_line(gpu, padded(name(&place, gpu)), bar, colours)));
            lines.extend(machine.ram.as_ref().map(|ram| ram_line(ram, padded(format!("{place}RAM")), bar, colours)));
        }
        Paragraph::new(lines)
    }

    fn queue(&self, waiting: &[&Placed]) -> Paragraph<'static> {
        let mut waiting = waiting.to_vec();
        let place = |lease: &Placed| lease.view.queue.as_ref().map(|queue| queue.position).filter(|place| *place > 0);
        waiting.sort_by_key(|lease| place(lease).unwrap_or(u32::MAX));
        let line = |lease: &&Placed| {
            let [name, class, _, since, .., why] = show::columns(&lease.view);
            Line::from(format!("{name}  {class}  for {since}  {why}"))
        };
        let lines: Vec<Line<'static>> = match waiting.as_slice() {
            [] => vec![Line::from("nobody waits").dim()],
            some => some.iter().map(line).collect(),
        };
        Paragraph::new(lines).block(Block::new().borders(Borders::TOP).title(" queue "))
    }
}

fn ram_line(ram: &Ram, name: String, bar: u64, colours: Colours) -> Line<'static> {
    let mut spans = vec![Span::from(name)];
    spans.extend(coloured(&show::bar(&[('#', ram.leased_mib)], ram.leasable_mib, bar), colours));
    let free = ram.leasable_mib.saturating_sub(ram.leased_mib);
    spans.push(format!(" {} leased, {} free", show::amount(ram.leased_mib), show::amount(free)).into());
    Line::from(spans)
}

fn gpu_line(gpu: &Gpu, name: String, bar: u64, colours: Colours) -> Line<'static> {
    let mut spans = vec![Span::from(name)];
    let parts = [('#', gpu.leased_mib), ('+', gpu.foreign_mib)];
    spans.extend(coloured(&show::bar(&parts, gpu.leasable_mib, bar), colours));
    let [leased, others, free] = [gpu.leased_mib, gpu.foreign_mib, free(gpu)].map(show::amount);
    spans.push(format!(" {leased} leased, {others} others, {free} free").into());
    if gpu.health() != Health::Healthy {
        spans.push(Span::from(format!("  {}", show::health(gpu))).style(style(Color::Red, colours)));
    }
    Line::from(spans)
}

/// A bar, each of its parts in its colour.
fn coloured(bar: &str, colours: Colours) -> Vec<Span<'static>> {
    let part = |letter: char, color: Color| {
        let drawn: String = bar.chars().filter(|drawn| *drawn == letter).collect();
        Span::from(drawn).style(style(color, colours))
    };
    vec!["[".into(), part('#', Color::Green), part('+', Color::Yellow), part('.', Color::DarkGray), "]".into()]
}

fn style(color: Color, colours: Colours) -> Style {
    if colours == Colours::On { Style::new().fg(color) } else { Style::new() }
}

fn holders(leases: &[&Placed], scrolled: usize, colours: Colours) -> Table<'static> {
    let several = leases.iter().any(|lease| !lease.node.is_empty());
    let rows = leases.iter().skip(scrolled).map(|lease| {
        let color = match lease.view.phase() {
            Phase::Revoking | Phase::Stopping => Color::Red,
            _ => Color::Reset,
        };
        let mut columns = show::columns(&lease.view).to_vec();
        if several {
            columns.insert(1, lease.node.clone());
        }
        Row::new(columns).style(style(color, colours))
    });
    let (mut head, mut widths) = (show::LEASE_HEADS.to_vec(), vec![24, 7, 9, 9, 20, 8, 8, 24]);
    if several {
        head.insert(1, "NODE");
        widths.insert(1, 16);
    }
    let widths = widths.into_iter().map(Constraint::Max).chain([Constraint::Min(20)]);
    Table::new(rows, widths).header(Row::new(head).bold())
}

#[cfg(test)]
mod tests {
    use super::*;
    use memboss_agent_api::v1::{GpuList, GpuShare, LeaseView, Queue};
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    fn screen() -> Screen {
        let gpu = Gpu {
            model: "L4".into(),
            leasable_mib: 24_576,
            leased_mib: 12_288,
            health: Health::Healthy.into(),
            ..Gpu::default()
        };
        let lease = |at: usize| LeaseView {
            lease: format!("user-0/job{at}"),
            phase: Phase::Active.into(),
            gpus: vec![GpuShare { memory_mib: 1024, ..GpuShare::default() }],
            ..LeaseView::default()
        };
        let waits = |position: u32| LeaseView {
            lease: format!("user-0/late{position}"),
            phase: Phase::Waiting.into(),
            queue: Some(Queue { position, reason: "NoRoom".into(), message: "not now".into(), ..Queue::default() }),
            ..LeaseView::default()
        };
        let status = StatusResponse {
            node: "desk".into(),
            gpus: Some(GpuList { gpus: vec![gpu], ..GpuList::default() }),
            ram: Some(Ram { leasable_mib: 1024, ..Ram::default() }),
            leases: [waits(2), waits(1)].into_iter().chain((0..12).map(lease)).collect(),
            ..StatusResponse::default()
        };
        Screen { picture: status.into(), name: "desk".into(), ..Screen::default() }
    }

    #[test]
    fn nodes_are_told_apart_where_there_are_several() {
        let mut screen = screen();
        let mut other = screen.picture.machines[0].clone();
        other.node = "other".into();
        screen.picture.machines.push(other);
        screen.picture.leases[3].node = "other".into();
        let lines = drawn(&screen, 130, 30);
        for words in ["desk 0 L4", "other 0 L4", "other RAM", "NODE"] {
            assert!(lines.iter().any(|line| line.contains(words)), "{words}: {lines:#?}");
        }
    }

    fn drawn(screen: &Screen, width: u16, height: u16) -> Vec<String> {
        let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
        terminal.draw(|frame| screen.draw(frame, Colours::Off)).unwrap();
        let buffer = terminal.backend().buffer().clone();
        let cells: Vec<String> = buffer.content().iter().map(|cell| cell.symbol().to_owned()).collect();
        cells.chunks(usize::from(width)).map(|line| line.concat().trim_end().to_owned()).collect()
    }

    #[test]
    fn gpus_have_bars_and_the_queue_is_in_order_below_the_leases() {
        let lines = drawn(&screen(), 110, 24);
        assert!(lines[0].contains("desk  12 hold, 2 wait"), "{lines:#?}");
        assert!(lines[1].contains("[####") && lines[1].contains("12Gi leased, 0Mi others, 12Gi free"), "{lines:#?}");
        let line_of = |words: &str| {
            lines.iter().position(|line| line.contains(words)).unwrap_or_else(|| panic!("{words}: {lines:#?}"))
        };
        let order = ["user-0/job0", " queue ", "user-0/late1", "user-0/late2", "q quits"].map(line_of);
        assert!(order.is_sorted(), "{lines:#?}");
    }

    #[test]
    fn it_scrolls_no_further_than_its_leases_and_fits_into_any_terminal() {
        let mut screen = screen();
        screen.scroll(3);
        assert!(!drawn(&screen, 100, 30).iter().any(|line| line.contains("job2")));
        screen.scroll(1_000);
        assert_eq!(screen.scrolled, 13);
        screen.scroll(-1_000);
        assert_eq!(screen.scrolled, 0);
        for (width, height) in [(1, 1), (20, 5), (300, 80)] {
            drawn(&screen, width, height);
        }
    }
}
