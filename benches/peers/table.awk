# Prints a table of the medians that scripts/bench-peers recorded. Each measured program has a row. The rows
# are in the order in which the programs were first measured. Most variables are lists that are separated by
# commas:
#   columns  the columns to show     heads  the headings of the columns, and then of the ratios
#   of       the columns of the ratios: the ratio n uses the column `of[n]`
#   to       rows, separated by semicolons: the ratio n is a row's value divided by the value of the row `to[n]`
#   unit     ms, s or none
#   only     the text with which the shown rows begin
function median(row, column,   n, i, j, x, a) {
    n = count[row, column]
    if (!n) return ""
    for (i = 1; i <= n; i++) {
        x = value[row, column, i]
        for (j = i - 1; j >= 1 && a[j] > x; j--) a[j + 1] = a[j]
        a[j + 1] = x
    }
    return n % 2 ? a[(n + 1) / 2] : (a[n / 2] + a[n / 2 + 1]) / 2
}
function shown(x) {
    if (x == "") return ""
    if (unit == "s") return sprintf("%.2f", x / 1000)
    if (unit == "none") return x == int(x) ? x : sprintf("%.2f", x)
    return sprintf(x < 100 ? "%.1f" : "%.0f", x)
}
function ratio(x, y) { return x == "" || !y ? "" : sprintf(x / y < 100 ? "%.2f" : "%.0f", x / y) }
only != "" && index($4, only) != 1 { next }
{
    if (!($4 in seen)) { seen[$4] = 1; rows[++r] = $4 }
    value[$4, $5, ++count[$4, $5]] = $6 + 0
}
END {
    c = split(columns, column, ","); split(heads, head, ",")
    q = split(to, ref, ";"); split(of, source, ",")
    line = "|"; rule = "|---"
    for (i = 1; i <= c; i++) { line = line " | " head[i]; rule = rule "|--:" }
    for (i = 1; i <= q; i++) { line = line " | " head[c + i]; rule = rule "|--:" }
    print line " |"; print rule "|"
    for (i = 1; i <= r; i++) {
        line = "| " rows[i]
        for (j = 1; j <= c; j++) line = line " | " shown(median(rows[i], column[j]))
        for (j = 1; j <= q; j++)
            line = line " | " ratio(median(rows[i], source[j]), median(ref[j], source[j]))
        print line " |"
    }
}
