//! The metrics as rows of SHOW STATS.

use prometheus::proto::MetricType;

use super::Metrics;

impl Metrics {
    /// Name, labels and value of everything that is not zero, for the console. Histograms give their count and mean.
    pub fn samples(&self) -> Vec<(String, String, String)> {
        let mut samples = Vec::new();
        for family in self.gather() {
            for metric in family.get_metric() {
                let labels: Vec<String> = metric
                    .get_label()
                    .iter()
                    .map(|pair| format!("{}={}", pair.name(), pair.value()))
                    .collect();
                let mut add = |name: String, value: f64| {
                    if value != 0.0 {
                        let digits = if value.fract() == 0.0 { 0 } else { 3 };
                        samples.push((name, labels.join(" "), format!("{value:.digits$}")));
                    }
                };
                let name = family.name();
                match family.get_field_type() {
                    MetricType::COUNTER => add(name.to_owned(), metric.get_counter().get_value()),
                    MetricType::HISTOGRAM => {
                        let histogram = metric.get_histogram();
                        let count = histogram.get_sample_count() as f64;
                        add(format!("{name}_count"), count);
                        add(format!("{name}_mean_ms"), histogram.get_sample_sum() * 1000.0 / count.max(1.0));
                    }
                    MetricType::GAUGE | MetricType::SUMMARY | MetricType::UNTYPED => {
                        add(name.to_owned(), metric.get_gauge().get_value());
                    }
                }
            }
        }
        samples
    }
}
