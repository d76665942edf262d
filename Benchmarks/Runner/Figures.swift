/// The middle value, or the mean of the middle two; nil without values.
func median(of values: [Double]) -> Double? {
    let sorted = values.sorted()
    if sorted.isEmpty { return nil }
    return (sorted[(sorted.count - 1) / 2] + sorted[sorted.count / 2]) / 2
}

/// `1234567.8` as `1,234,568`.
func grouped(_ value: Double) -> String {
    let digits = "\(Int(value.magnitude.rounded()))"
    var text = value < 0 ? "−" : ""
    for (index, digit) in digits.enumerated() {
        if index > 0, (digits.count - index).isMultiple(of: 3) { text += "," }
        text.append(digit)
    }
    return text
}

/// `1.2345` as `1.23`.
func hundredths(_ value: Double) -> String {
    let rounded = Int((value * 100).rounded())
    let fraction = rounded % 100
    return "\(rounded / 100)." + (fraction < 10 ? "0" : "") + "\(fraction)"
}
