// What every page needs: its data, elements, numbers, and a switch between light and dark.

const data = JSON.parse(document.getElementById('data').textContent);

/** An element. Text becomes text nodes, so nothing in the data is ever read as markup. */
function el(name, attributes = {}, ...children) {
  const element = name.startsWith('svg:')
    ? document.createElementNS('http://www.w3.org/2000/svg', name.slice(4))
    : document.createElement(name);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith('on')) element.addEventListener(key.slice(2), value);
    else if (key.startsWith('--')) element.style.setProperty(key, value);
    else element.setAttribute(key, value === true ? '' : value);
  }
  element.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** A number as people write it: a real minus sign, and none before zero. */
function number(value, digits = 2, sign = false) {
  if (value === null || value === undefined) return '–';
  const text = Math.abs(value).toFixed(digits);
  if (Number(text) === 0) return text;
  return (value < 0 ? '−' : sign ? '+' : '') + text;
}

function percent(value) {
  return `${number(100 * value, 0)} %`;
}

/** Which side of zero a number is on, as a class. */
function side(value) {
  return value < 0 ? 'less' : value > 0 ? 'more' : '';
}

function themeSwitch() {
  const names = { 'light dark': 'Auto', light: 'Light', dark: 'Dark' };
  const order = Object.keys(names);
  let at = 0;
  const button = el('button', { type: 'button', title: 'Switch between light and dark' }, names[order[at]]);
  button.addEventListener('click', () => {
    at = (at + 1) % order.length;
    document.documentElement.style.colorScheme = order[at];
    button.textContent = names[order[at]];
  });
  return button;
}
