//! A picture of the distributions: latency by percentile, a curve per row.

use plotters::prelude::*;

use super::measure::Measured;

/// Percentiles with their marks, by nines: 0 is p0, 1 is p90, 2 is p99.
const NINES: f64 = 4.0;

/// The picture as SVG.
///
/// # Errors
/// What the drawing says.
pub fn svg(all: &[Measured]) -> Result<String, String> {
    let mut text = String::new();
    draw(all, SVGBackend::with_string(&mut text, (1200, 720))).map_err(|error| error.to_string())?;
    Ok(text)
}

fn draw(all: &[Measured], backend: SVGBackend<'_>) -> Result<(), Box<dyn std::error::Error>> {
    let area = backend.into_drawing_area();
    area.fill(&WHITE)?;
    let us = |measured: &Measured, nines: f64| {
        measured.period.value_at_quantile(1.0 - 10f64.powf(-nines)).max(1) as f64 / 1000.0
    };
    let lowest = all.iter().map(|measured| us(measured, 0.0)).fold(f64::INFINITY, f64::min);
    let highest = all.iter().map(|measured| us(measured, NINES)).fold(0.0, f64::max);
    let mut chart = ChartBuilder::on(&area)
        .caption("outboard bench: from exit to exit", ("sans-serif", 26))
        .margin(16)
        .x_label_area_size(46)
        .y_label_area_size(70)
        .build_cartesian_2d(0.0..NINES, (lowest * 0.8..highest * 1.2).log_scale())?;
    chart
        .configure_mesh()
        .x_desc("percentile")
        .y_desc("microseconds")
        .x_labels(5)
        .x_label_formatter(&|nines| match *nines {
            nines if nines < 0.5 => "p0".to_owned(),
            nines if (nines - nines.round()).abs() > 0.01 => String::new(),
            nines => format!("p{}", 100.0 - 100.0 * 10f64.powf(-nines.round())),
        })
        .y_label_formatter(&|us| if *us < 10.0 { format!("{us:.1}") } else { format!("{us:.0}") })
        .draw()?;
    for (number, measured) in all.iter().enumerate() {
        let colour = Palette99::pick(number).to_rgba();
        let points = (0..=200).map(|step| f64::from(step) * NINES / 200.0).map(|nines| (nines, us(measured, nines)));
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(2)))?
            .label(format!("{} {}", measured.place.name, measured.name))
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 18, y)], colour.stroke_width(3)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.85))
        .border_style(BLACK.mix(0.4))
        .draw()?;
    area.present()?;
    Ok(())
}
