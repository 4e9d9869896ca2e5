# Draws docs/benchmarks/scaling.tsv as SVG: milliseconds per step over the context length, both logarithmic, one line per
# device and projection.   awk -f bench/scaling_plot.awk docs/benchmarks/scaling.tsv > docs/benchmarks/scaling.svg
BEGIN {
  FS = "\t"
  width = 720; height = 460; left = 70; right = 150; top = 30; bottom = 50
}

NR > 1 {
  name = $1 " " $2
  if (!(name in points)) names[++count] = name
  points[name] = points[name] " " $3 "," $4
  if (!least_x || $3 < least_x) least_x = $3
  if ($3 > most_x) most_x = $3
  if (!least_y || $4 < least_y) least_y = $4
  if ($4 > most_y) most_y = $4
}

function log10(v) { return log(v) / log(10) }
function x_of(v) { return left + (width - left - right) * (log(v) - log(least_x)) / (log(most_x) - log(least_x)) }
function y_of(v) { return height - bottom - (height - top - bottom) * (log10(v) - low) / (high - low) }
function text(x, y, anchor, words) {
  printf "<text x=\"%.1f\" y=\"%.1f\" text-anchor=\"%s\">%s</text>\n", x, y, anchor, words
}
function rule(x1, y1, x2, y2) {
  printf "<line x1=\"%.1f\" y1=\"%.1f\" x2=\"%.1f\" y2=\"%.1f\" stroke=\"#ddd\"/>\n", x1, y1, x2, y2
}
function tokens(v) { return v >= 1024 ? v / 1024 "k" : v }

END {
  if (count == 0) { print "no rows" > "/dev/stderr"; exit 1 }
  low = int(log10(least_y)); if (low > log10(least_y)) --low
  high = int(log10(most_y)); if (high < log10(most_y)) ++high
  if (high == low) ++high
  if (most_x == least_x) most_x = 2 * least_x
  printf "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 %d %d\" font-family=\"sans-serif\" font-size=\"12\">\n", width, height
  printf "<rect width=\"%d\" height=\"%d\" fill=\"white\"/>\n", width, height
  for (v = least_x; v <= most_x; v *= 2) {
    rule(x_of(v), top, x_of(v), height - bottom)
    text(x_of(v), height - bottom + 18, "middle", tokens(v))
  }
  for (decade = low; decade <= high; ++decade) {
    rule(left, y_of(10 ^ decade), width - right, y_of(10 ^ decade))
    text(left - 8, y_of(10 ^ decade) + 4, "end", 10 ^ decade)
  }
  text((left + width - right) / 2, height - 10, "middle", "context, tokens")
  text(left, top - 12, "middle", "ms a step")
  for (i = 1; i <= count; ++i) {
    name = names[i]
    color = name ~ /^cpu/ ? "#1f6fb4" : "#2a8c3c"
    dash = name ~ /direct$/ ? "6 4" : "none"
    n = split(substr(points[name], 2), pair, " ")
    line = ""
    for (j = 1; j <= n; ++j) {
      split(pair[j], at, ",")
      x = x_of(at[1]); y = y_of(at[2])
      line = line sprintf(" %.1f,%.1f", x, y)
      printf "<circle cx=\"%.1f\" cy=\"%.1f\" r=\"2.5\" fill=\"%s\"/>\n", x, y, color
    }
    printf "<polyline points=\"%s\" fill=\"none\" stroke=\"%s\" stroke-width=\"2\" stroke-dasharray=\"%s\"/>\n", substr(line, 2), color, dash
    text(x + 8, y + (name ~ /direct$/ ? 0 : 9), "start", name)  # apart where the lines end close together
  }
  print "</svg>"
}
