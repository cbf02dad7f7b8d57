// Checks of foreign data: each takes a value and its place, and returns the value or throws BadFile.

/** Why a file cannot be used, in one line. */
export class BadFile extends Error {}

const fail = (at, what) => {
  throw new BadFile(`${at} ${what}`);
};

export const text = (longest = 1e6) => (value, at) =>
  typeof value === "string" && value.length <= longest ? value : fail(at, "must be text");

const LARGEST = 1e9;

export const number = (low = -LARGEST, high = LARGEST) => (value, at) =>
  Number.isFinite(value) && value >= low && value <= high
    ? value : fail(at, high < LARGEST ? `must be a number from ${low} to ${high}` : "must be a number");

export const whole = (high = LARGEST) => (value, at) =>
  Number.isInteger(number(0, high)(value, at)) ? value : fail(at, "must be a whole number");

export const flag = (value, at) => (typeof value === "boolean" ? value : fail(at, "must be true or false"));

export const oneOf = (...values) => (value, at) =>
  values.includes(value) ? value : fail(at, `must be one of ${values.join(", ")}`);

export const nullable = (check) => (value, at) => (value === null ? null : check(value, at));

/** A field that may be absent. */
export const optional = (check) => (value, at) => (value === undefined ? undefined : check(value, at));

export const list = (check, most = 1000) => (value, at) =>
  Array.isArray(value) && value.length <= most
    ? value.map((one, i) => check(one, `${at}[${i}]`)) : fail(at, `must be a list of at most ${most}`);

/** An object with these fields; others are left out. */
export const record = (fields) => (value, at) => {
  if (typeof value !== "object" || value === null || Array.isArray(value)) fail(at, "must be an object");
  const own = Object.entries(fields).map(([name, check]) => [name, check(value[name], `${at}.${name}`)]);
  return Object.fromEntries(own.filter(([, one]) => one !== undefined));
};
